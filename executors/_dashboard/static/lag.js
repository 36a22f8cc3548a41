// The chart of the event loops' lag, drawn by uPlot: a line for each server process.

const COLORS = 6
let chart = null
let drawn = ""

export function draw_lag({pids, times, worst}) {
  const box = document.getElementById("lag")
  box.hidden = pids.length === 0
  if (box.hidden) return
  const style = getComputedStyle(document.documentElement)
  const css = name => style.getPropertyValue(name).trim()
  const look = [pids, box.clientWidth, css("--ink")].join()
  const columns = [times, ...worst.map(values => values.map(value => value === null ? null : value * 1e3))]
  if (look === drawn) return chart.setData(columns)
  drawn = look
  chart?.destroy()
  chart = new uPlot(options(pids, box.clientWidth, css), columns, box)
}

function options(pids, width, css) {
  const font = `12px ${css("--font")}`
  const axis = {stroke: css("--soft"), grid: {stroke: css("--line"), width: 1}, ticks: {show: false}, font}
  const series = pids.map((pid, index) => {
    const stroke = css(`--c${index % COLORS}`)
    return {label: `server ${pid}`, stroke, fill: pids.length === 1 ? stroke + "30" : undefined, width: 1.5, points: {show: false}}
  })
  return {
    width, height: 170, padding: [10, 8, 0, 0], series: [{}, ...series],
    scales: {x: {range: (_, low, high) => [high - 60, high]}, y: {range: (_, low, high) => [0, Math.max(10, high * 1.15)]}},
    axes: [
      {...axis, size: 26, space: 60, values: (_, splits) => splits.map(since)},
      {...axis, size: 58, space: 36, values: (_, splits) => splits.map(milliseconds)},
    ],
    legend: {show: pids.length > 1, live: false},
    cursor: {show: false},
  }

  function since(time) {
    return new Date(time * 1e3).toLocaleTimeString("en-GB")
  }
}

function milliseconds(value) {
  return value >= 1000 ? `${value / 1000} s` : `${value} ms`
}
