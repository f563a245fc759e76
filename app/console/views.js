// The page's views, one at a time, selected by the URL fragment, so that links and the back button work.

export class Views {
  // `live` = {name: {show(), hide()}}, for views that need them.
  constructor(live) {
    this.live = live;
    this.links = [...document.querySelectorAll(".views a")];
    this.now = null;
    addEventListener("hashchange", () => this.open());
    this.open();
  }

  open() {
    const names = this.links.map((link) => link.hash.slice(1));
    const wanted = location.hash.slice(1);
    // Other fragments are anchors within a page, not views.
    if (this.now !== null && !names.includes(wanted)) return;
    const name = names.includes(wanted) ? wanted : names[0];
    if (name === this.now) return;
    this.live[this.now]?.hide();
    this.now = name;
    for (const link of this.links) {
      const own = link.hash === `#${name}`;
      if (own) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      document.getElementById(`view-${link.hash.slice(1)}`).hidden = !own;
    }
    this.live[name]?.show();
  }
}

// A view that calls `refresh()` every `everyMs` while it is shown and the page is visible.
export class Polled {
  constructor(everyMs) {
    this.everyMs = everyMs;
  }

  show() {
    this.refresh();
    clearInterval(this.timer);
    this.timer = setInterval(() => document.hidden || this.refresh(), this.everyMs);
  }

  hide() {
    clearInterval(this.timer);
  }
}
