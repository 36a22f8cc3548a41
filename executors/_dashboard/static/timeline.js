// What each worker did in the last minute: a lane for each worker, a block for each task, in its function's color.

import {seconds} from "./format.js"
import {keep, make, put} from "./tables.js"

const SPAN = 60
const LANE = 18 // pixels
const AXIS = 22
const COLORS = 8
const BAD = new Set(["failed", "timed_out", "lost"])
const box = document.getElementById("timeline-box")
const canvas = document.getElementById("timeline")
const tip = document.getElementById("timeline-tip")
const colors = new Map() // of the functions, which keep theirs as long as the page is open
let targets = [] // where the blocks are

export function draw_timeline({timeline: {names, lanes, blocks, hidden}}) {
  box.hidden = lanes.length === 0
  document.getElementById("timeline-empty").hidden = lanes.length > 0
  names.forEach(name => colors.has(name) || colors.set(name, colors.size % COLORS))
  legend(names, blocks, hidden)
  if (box.hidden) return
  const style = getComputedStyle(document.documentElement)
  const css = name => style.getPropertyValue(name).trim()
  const width = box.clientWidth
  const height = lanes.length * LANE + AXIS
  const gutter = width < 560 ? 96 : 190
  const scale = (width - gutter - 1) / SPAN
  const pen = prepare(width, height)
  pen.font = `12px ${css("--font")}`
  grid(pen, css, gutter, width, lanes.length * LANE)
  const servers = new Set(lanes.map(lane => lane.server)).size
  lanes.forEach((lane, place) => lane.row || label(pen, css, lane, servers > 1, gutter, place))
  targets = blocks.map(block => {
    const [lane, name, state, started, ended] = block
    const left = gutter + (SPAN - started) * scale
    const wide = Math.max(1, (started - (ended ?? 0)) * scale)
    const top = lane * LANE + 2
    pen.globalAlpha = ended === null ? 0.55 : 1
    pen.fillStyle = css(BAD.has(state) ? "--bad" : state === "cancelled" ? "--faint" : `--c${colors.get(names[name])}`)
    pen.fillRect(left, top, wide, LANE - 4)
    return {left, top, wide, block, name: names[name]}
  })
  pen.globalAlpha = 1
  canvas.setAttribute("aria-label", `What ${lanes.length} workers did in the last minute: ${blocks.length} blocks of tasks`)
}

function prepare(width, height) {
  const ratio = devicePixelRatio || 1
  canvas.width = width * ratio
  canvas.height = height * ratio
  canvas.style.width = width + "px"
  canvas.style.height = height + "px"
  const pen = canvas.getContext("2d")
  pen.scale(ratio, ratio)
  return pen
}

function grid(pen, css, gutter, width, bottom) {
  pen.textBaseline = "middle"
  for (let ago = SPAN; ago >= 0; ago -= width < 560 ? 20 : 10) {
    const x = Math.round(gutter + (SPAN - ago) / SPAN * (width - gutter - 1)) + 0.5
    pen.fillStyle = css("--line")
    pen.fillRect(x, 0, 1, bottom)
    pen.fillStyle = css("--soft")
    pen.textAlign = ago === SPAN ? "left" : ago ? "center" : "right"
    pen.fillText(ago ? `−${ago} s` : "now", x, bottom + AXIS / 2 + 1)
  }
}

function label(pen, css, {server, backend, worker}, many, gutter, place) {
  pen.fillStyle = css("--soft")
  pen.textAlign = "left"
  let text = worker.replace("worker process", "process").replace("executors-thread-", "thread ")
  if (!text.includes(backend)) text = `${backend}: ${text}`
  if (many) text += ` · ${server}`
  while (text.length > 4 && pen.measureText(text).width > gutter - 10) text = text.slice(0, -2) + "…"
  pen.fillText(text, 0, place * LANE + LANE / 2 + 1)
}

function legend(names, blocks, hidden) {
  const used = new Set(blocks.map(block => block[1]))
  const items = names.filter((_, index) => used.has(index)).slice(0, 12).map(name => [name, `c${colors.get(name)}`])
  if (blocks.some(block => BAD.has(block[2]))) items.push(["failed, timed out or lost", "bad"])
  if (blocks.some(block => block[2] === "cancelled")) items.push(["cancelled", "faint"])
  if (hidden) items.push([`and ${hidden} more workers`, "none"])
  keep(document.getElementById("timeline-legend"), items, ([name]) => name, () => make("li"), (item, [name, color]) => {
    item.className = color
    put(item, name)
  })
}

canvas.addEventListener("pointermove", event => {
  const {offsetX: x, offsetY: y} = event
  const found = targets.findLast(({left, top, wide}) => x >= left - 1 && x <= left + wide + 1 && y >= top && y <= top + LANE - 4)
  tip.hidden = !found
  if (!found) return
  const [, , state, started, ended, number] = found.block
  const what = number > 1 ? `${number} × ${found.name}` : found.name
  put(tip, `${what}: ${state.replaceAll("_", " ")}, ${seconds(started - (ended ?? 0))}`)
  tip.style.left = `${Math.min(x, canvas.clientWidth - tip.offsetWidth)}px`
  tip.style.top = `${y + 14}px`
})
canvas.addEventListener("pointerleave", () => { tip.hidden = true })
