// Long names in tables and headings may break after an underscore, a dot or a bracket.
document.addEventListener("DOMContentLoaded", () => {
  for (const code of document.querySelectorAll("article :is(td, th, h1, h2, h3) code span.pre, .sidebar-tree code span.pre")) {
    code.innerHTML = code.innerHTML.replace(/(&\w+;)|([_.])(?=\w)/g, (part, entity) => entity ?? part + "<wbr>");
  }
});
