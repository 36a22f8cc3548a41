// Tables whose rows are kept from one state to the next, so that focus and selection stay. Text is set as text only.

export function put(element, text) {
  text = String(text)
  if (element.textContent !== text) element.textContent = text
}

export function make(tag, className = "", text = "") {
  const element = document.createElement(tag)
  if (className) element.className = className
  element.textContent = text
  return element
}

// Fill a table's body: a row for each item, its cells what `cells(item)` returns, found again by `key(item)`.
export function fill(id, items, key, cells) {
  const table = document.getElementById(id)
  table.parentElement.hidden = items.length === 0
  document.getElementById(id + "-empty").hidden = items.length > 0
  const kinds = [...table.tHead.rows[0].cells].map(head => head.className)
  keep(table.tBodies[0], items, key, () => newRow(kinds), (row, item) => {
    cells(item).forEach((value, place) => show(row.cells[place], value))
  })
}

// Give `parent` a child for each item, and reuse those of the same key.
export function keep(parent, items, key, create, update) {
  const old = new Map([...parent.children].map(child => [child.dataset.key, child]))
  const wanted = new Map(items.map(item => [String(key(item)), item]))
  for (const [name, child] of old) if (!wanted.has(name)) child.remove()
  let next = parent.firstElementChild
  for (const [name, item] of wanted) {
    let child = old.get(name)
    if (!child) {
      child = create(item)
      child.dataset.key = name
    }
    if (child === next) next = next.nextElementSibling
    else parent.insertBefore(child, next)
    update(child, item)
  }
}

function newRow(kinds) {
  const row = document.createElement("tr")
  for (const kind of kinds) {
    const cell = document.createElement(kind.includes("row") ? "th" : "td")
    if (cell.tagName === "TH") cell.scope = "row"
    cell.className = kind
    row.append(cell)
  }
  return row
}

// A cell's value: a text, or an object of one of these kinds.
function show(cell, value) {
  if (value === null || typeof value !== "object") put(cell, value ?? "")
  else if ("state" in value) showState(cell, value.state)
  else if ("href" in value) showLink(cell, value)
  else if ("share" in value) showMeter(cell, value)
  else if ("note" in value) showNote(cell, value)
}

function child(cell, place, tag, className = "") {
  const found = cell.children[place]
  if (found?.localName === tag) return found
  if (place === 0) cell.replaceChildren()
  const element = make(tag, className)
  cell.append(element)
  return element
}

export function showState(cell, state, text = state.replaceAll("_", " ")) {
  const element = child(cell, 0, "span", "state")
  element.dataset.state = state
  put(element, text)
}

function showLink(cell, {href, text}) {
  const element = child(cell, 0, "a")
  if (element.getAttribute("href") !== href) element.setAttribute("href", href)
  put(element, text)
}

// A share from 0 to 1 as a bar, and as text. The share is null where only the text is known.
function showMeter(cell, {share, text, label}) {
  const bar = child(cell, 0, "progress")
  bar.setAttribute("aria-label", label)
  bar.hidden = share === null
  bar.max = 1
  bar.value = share ?? 0
  put(child(cell, 1, "span", "beside"), text)
}

function showNote(cell, {text, note}) {
  put(child(cell, 0, "span", "name"), text)
  const below = child(cell, 1, "span", "note")
  below.hidden = !note
  put(below, note ?? "")
}
