// The main page: one stream of states, closed while the tab is hidden.

import {draw_lag} from "./lag.js"
import {sections} from "./sections.js"
import {put} from "./tables.js"
import {draw_timeline} from "./timeline.js"

const SILENCE = 5000 // milliseconds without a state after which the page says that it is out of date
const RETRY = 5000
const connection = document.getElementById("connection")
let source = null
let state = null
let timer = 0

function say(kind, text) {
  connection.dataset.state = kind
  put(connection, text)
}

function connect() {
  if (source || document.hidden) return
  source = new EventSource("events")
  source.onmessage = event => {
    state = JSON.parse(event.data)
    say("live", "Live")
    wait()
    sections(state)
    draw()
  }
  source.onerror = () => {
    if (source?.readyState !== EventSource.CLOSED) return // it ended, and a new one is requested
    disconnect()
    say("lost", "Disconnected: reload the page to sign in again")
    timer = setTimeout(connect, RETRY)
  }
  wait()
}

function wait() {
  clearTimeout(timer)
  timer = setTimeout(() => say("lost", "No answer from the server, trying again"), SILENCE)
}

function disconnect() {
  clearTimeout(timer)
  source?.close()
  source = null
}

function draw() {
  if (!state) return
  draw_timeline(state)
  draw_lag(state.lag)
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return connect()
  disconnect()
  say("paused", "Paused")
})
addEventListener("resize", draw)
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw)
connect()
