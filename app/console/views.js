// The page's views, one at a time, named by the address so that a link or the back button finds one.

export class Views {
  // `live` = {name: {show(), hide()}}; a view without an entry needs neither.
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
    // Other fragments are places on a page, not views.
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

// A view that reads anew every `everyMs` while it is shown and its page is looked at; it has a `refresh()`.
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
