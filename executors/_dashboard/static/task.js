// A task's page: replaces what has changed on the server, until the task has ended, and cancels it.

const INTERVAL = 2000

async function refresh() {
  if (!document.hidden) {
    const response = await fetch(location.href).catch(() => null)
    if (response?.ok) replace(new DOMParser().parseFromString(await response.text(), "text/html"))
  }
  if (document.getElementById("content").dataset.final === "no") setTimeout(refresh, INTERVAL)
}

function replace(page) {
  for (const old of document.querySelectorAll(".live")) {
    const updated = page.getElementById(old.id)
    if (!updated) old.remove() // the button of a task that has ended
    else if (old.innerHTML !== updated.innerHTML && !old.contains(document.activeElement)) old.replaceWith(document.adoptNode(updated))
  }
  const content = page.getElementById("content")
  if (content) document.getElementById("content").dataset.final = content.dataset.final
  document.title = page.title
}

async function cancel(event) {
  const button = event.target
  if (button.id !== "cancel" || !confirm("Cancel this task?")) return
  button.disabled = true
  const response = await fetch(location.pathname.replace(/\/?$/, "/cancel"), {method: "POST"}).catch(() => null)
  if (!response?.ok) {
    button.disabled = false
    button.textContent = "It could not be cancelled. Try again"
  }
}

document.addEventListener("click", cancel)
refresh()
