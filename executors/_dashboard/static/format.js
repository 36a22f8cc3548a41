// Numbers, times and sizes as text.

const counts = new Intl.NumberFormat("en")
const NOTHING = "–"

export function count(value) {
  return value == null ? NOTHING : counts.format(value)
}

// "34 µs", "45.6 ms", "1.23 s"; from 100 seconds on "5 min 02 s", "3 h 07 min", "2 d 04 h".
export function seconds(value) {
  if (value == null) return NOTHING
  if (value < 0.0000995) return Math.round(value * 1e6) + " µs"
  if (value < 0.0995) return digits(value * 1e3) + " ms"
  if (value < 99.95) return digits(value) + " s"
  const [minutes, hours] = [Math.floor(value / 60), Math.floor(value / 3600)]
  if (minutes < 60) return `${minutes} min ${pad(Math.floor(value % 60))} s`
  if (hours < 48) return `${hours} h ${pad(minutes % 60)} min`
  return `${Math.floor(hours / 24)} d ${pad(hours % 24)} h`
}

export function ago(value) {
  if (value < 1) return "just now"
  return (value < 100 ? `${Math.floor(value)} s` : seconds(value)) + " ago"
}

export function bytes(value) {
  if (value == null) return NOTHING
  return value < 999.5e6 ? `${Math.round(value / 1e6)} MB` : `${digits(value / 1e9)} GB`
}

export function percent(value) {
  return Math.round(100 * value) + "\u00a0%"
}

function digits(value) {
  return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)
}

function pad(value) {
  return String(value).padStart(2, "0")
}
