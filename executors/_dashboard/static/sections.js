// Each section of the page, from a state.

import {ago, bytes, count, percent, seconds} from "./format.js"
import {fill, keep, make, put, showState} from "./tables.js"

const $ = id => document.getElementById(id)
const RATE_SECONDS = 5
let ended = [] // [time, number of tasks that have ended], of the last seconds

export function sections(state) {
  summary(state)
  notices(state)
  backends(state)
  loops(state)
  functions(state)
  tasks(state)
  workers(state)
  services(state)
  drain(state)
}

function total(counts, names = Object.keys(counts)) {
  return names.reduce((sum, name) => sum + (counts[name] ?? 0), 0)
}

function summary(state) {
  if (state.app) document.title = `${state.app}: executors`
  put($("app"), state.app || "Executors")
  const answered = state.servers.filter(server => !server.error)
  const phases = new Set(answered.map(server => server.phase))
  put($("processes"), `${answered.length} server process${answered.length === 1 ? "" : "es"}, ${[...phases].join(", ") || "none answers"}`)
  const all = total(state.finished)
  if (all < ended.at(-1)?.[1]) ended = [] // a server process has ended, or was started again
  ended = [...ended.filter(([time]) => time >= state.now - RATE_SECONDS), [state.now, all]]
  const [time, before] = ended[0]
  put($("figure-rate"), state.now > time ? count(rounded((all - before) / (state.now - time))) : "–")
  put($("figure-running"), count(state.backends.reduce((sum, one) => sum + one.running, 0)))
  put($("figure-queued"), count(state.backends.reduce((sum, one) => sum + one.queued, 0)))
  put($("figure-succeeded"), count(state.finished.succeeded ?? 0))
  put($("figure-failed"), count(state.finished.failed ?? 0))
  put($("figure-other"), count(all - total(state.finished, ["succeeded", "failed"])))
}

function rounded(rate) {
  return rate < 10 ? Math.round(rate * 10) / 10 : Math.round(rate)
}

// What needs attention. The region is live, so it changes only when a notice does.
function notices(state) {
  const found = []
  for (const server of state.servers) {
    if (server.error) found.push(`Server process ${server.pid} does not answer: ${server.error}`)
    if (server.blocked) found.push(`The event loop of server process ${server.pid} is blocked: its stack is below.`)
  }
  for (const backend of state.backends) {
    if (backend.unavailable) found.push(`The backend ${backend.name} is unavailable: ${backend.unavailable}`)
  }
  if (state.lost_workers) found.push(`${count(state.lost_workers)} of the workers died while they ran a task.`)
  if (state.abandoned) found.push(`${count(state.abandoned)} tasks did not respond to their cancellation and were abandoned.`)
  keep($("notices"), found, text => text, () => make("p", "notice"), put)
}

function backends(state) {
  keep($("backends"), state.backends, backend => backend.name, newCard, (card, backend) => {
    const [title, running, busy, queue, filled] = card.children
    put(title, backend.name)
    put(running, count(backend.running))
    running.append(make("span", "soft", backend.workers === null ? " running" : ` of ${count(backend.workers)} running`))
    meter(busy, backend.workers ? backend.running / backend.workers : null, `${backend.name}: share of workers that run a task`)
    put(queue, backend.size ? `${count(backend.queued)} of ${count(backend.size)} queued` : `${count(backend.queued)} queued`)
    meter(filled, backend.size ? backend.queued / backend.size : null, `${backend.name}: share of the queue that is filled`)
  })
}

function newCard() {
  const card = make("li")
  card.append(make("h3"), make("p", "big"), make("progress"), make("p", "soft"), make("progress", "queue"))
  return card
}

function meter(bar, share, label) {
  bar.setAttribute("aria-label", label)
  bar.max = 1
  bar.value = share ?? 0
  bar.classList.toggle("unknown", share === null)
}

function loops(state) {
  const measured = state.servers.filter(server => server.loop)
  fill("loops", measured, server => server.pid, ({pid, loop}) => [
    String(pid), {share: loop.utilisation, text: percent(loop.utilisation), label: `Busy share of the event loop of ${pid}`},
    seconds(loop.lag.p50), seconds(loop.lag.p99), seconds(loop.lag.max),
  ])
  const stalls = state.servers.map(server => [server, server.blocked ?? server.last_blocked]).filter(([, stall]) => stall)
  keep($("blocked"), stalls, ([server]) => server.pid, () => {
    const box = make("div", "blocked")
    box.append(make("p", "notice"), make("pre"))
    box.lastChild.tabIndex = 0
    return box
  }, (box, [server, stall]) => {
    const when = server.blocked ? "has been blocked for" : `was blocked ${ago(state.now - stall.at)} for`
    put(box.firstChild, `Server process ${server.pid} ${when} ${seconds(stall.seconds)}, here:`)
    put(box.lastChild, stall.stack)
  })
  put($("blame-empty"), measured.length ? "Nothing has delayed the event loop noticeably." : "The event loop is not measured.")
  fill("blame", state.blame, entry => entry.kind + entry.name, entry => [
    {text: entry.name, note: [kinds[entry.kind] ?? entry.kind, entry.where].filter(Boolean).join(", ")},
    count(entry.count), seconds(entry.worst), seconds(entry.total),
  ])
  keep($("advice"), state.advice, text => text, () => make("li"), (item, text) => put(item, plain(text)))
}

const kinds = {step: "coroutine", thread: "in a thread", route: "route", other: "not a task"}

function plain(text) {
  return text.replaceAll("`", "")
}

function functions(state) {
  fill("functions", state.functions, one => [one.name, one.backend, one.tag].join(), one => [
    {text: one.name, note: one.tag}, one.backend, count(one.running), count(one.count), count(one.failed),
    seconds(one.p50), seconds(one.p99), seconds(one.queue_p50), seconds(one.queue_p99),
  ])
}

const link = task => ({href: "tasks/" + encodeURIComponent(task.id), text: task.name})

function tasks(state) {
  const {active, active_count, now} = state
  put($("active-count"), active_count > active.length ? `${active.length} of ${count(active_count)}` : "")
  const queue_time = task => seconds(Math.max(0, (task.started_at ?? task.finished_at ?? now) - task.submitted_at))
  fill("active", active, task => task.id, task => [
    {state: task.state}, link(task), task.backend, task.worker ?? "", queue_time(task),
    task.started_at === null ? "–" : seconds(Math.max(0, now - task.started_at)), progress(task),
  ])
  const run_time = task => task.started_at === null ? "–" : seconds(Math.max(0, task.finished_at - task.started_at))
  fill("failures", state.failures, task => task.id, task => [
    {state: task.state}, link(task), task.backend, task.worker ?? "", run_time(task), ago(now - task.finished_at), task.error ?? "",
  ])
  fill("recent", state.recent, task => task.id, task => [
    {state: task.state}, link(task), task.backend, task.worker ?? "", queue_time(task), run_time(task), ago(now - task.finished_at),
  ])
}

function progress({name, progress}) {
  if (progress === null) return ""
  const {fraction, done, total, message} = progress
  const number = value => count(Math.round(value * 100) / 100)
  const text = total === null ? number(done) : `${number(done)} of ${number(total)}`
  return {share: fraction, text: message ? `${text}, ${message}` : text, label: `Progress of ${name}`}
}

function workers(state) {
  fill("workers", state.workers, worker => [worker.server, worker.backend, worker.name].join(), worker => [
    {state: worker.state}, {text: worker.name, note: worker.backend}, String(worker.server),
    worker.task_id ? link({id: worker.task_id, name: worker.task}) : worker.task ?? "", count(worker.tasks),
    seconds(worker.cpu_time), bytes(worker.memory),
  ])
}

function services(state) {
  fill("services", state.services, service => [service.server, service.name].join(), service => [
    {state: service.state}, service.name, String(service.server), count(service.restarts),
  ])
  fill("limits", state.limits, queue => [queue.backend, queue.function].join(), queue => [
    {text: queue.function, note: queue.backend}, count(queue.queued), count(queue.size),
  ])
}

function drain({drain, now}) {
  $("drain").hidden = !drain
  $("drain-empty").hidden = Boolean(drain)
  if (!drain) return
  showState($("drain-state"), drain.clean ? "succeeded" : "failed", drain.clean ? "clean" : "not clean")
  put($("drain-when"), `Server process ${drain.pid}, ${ago(now - drain.at)}`)
  put($("drain-text"), drain.text)
}
