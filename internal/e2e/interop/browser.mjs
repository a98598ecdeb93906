// A browser as far as our pages need one: cookies, redirects within one origin, and forms that are sent as they stand.
const entities = { amp: '&', lt: '<', gt: '>', quot: '"', '#34': '"', '#39': "'", '#43': '+' }
const plain = (s) => s.replace(/&(#?\w+);/g, (all, name) => entities[name] ?? all)
const attributes = (tag) => Object.fromEntries([...tag.matchAll(/([\w-]+)(?:="([^"]*)")?/g)].slice(1).map(([, name, value]) => [name, plain(value ?? '')]))

class Page {
  constructor(status, url, html, leftFor) {
    Object.assign(this, { status, url, leftFor })
    this.text = plain(html.replace(/<style[^]*?<\/style>|<[^>]*>/g, ' ')).replace(/\s+/g, ' ')
    this.forms = [...html.matchAll(/<form ([^>]*)>([^]*?)<\/form>/g)].map(([, head, body]) => {
      const fields = []
      for (const [tag] of body.matchAll(/<input [^>]*>/g)) {
        const a = attributes(tag)
        if (a.type !== 'checkbox' && a.type !== 'radio' || 'checked' in a) fields.push([a.name, a.value ?? ''])
      }
      return { action: attributes(`form ${head}`).action, fields }
    })
  }

  // form finds the one that has a field of that name.
  form(name) {
    return this.forms.find((f) => f.fields.some(([n]) => n === name))
  }
}

export class Browser {
  constructor(origin) {
    this.origin = origin
    this.cookies = new Map()
    this.at = origin
  }

  open(url) {
    return this.go(url, { method: 'GET' }, 'none')
  }

  send(form, values) {
    const body = new URLSearchParams(form.fields.filter(([name]) => !(name in values)))
    for (const [name, value] of Object.entries(values)) body.append(name, value)
    return this.go(form.action, { method: 'POST', body }, 'same-origin')
  }

  // go follows redirects as long as they stay here; a page that leads away says where to.
  async go(to, init, site) {
    for (let hops = 0; hops < 10; hops++) {
      const url = new URL(to, this.at)
      if (url.origin !== this.origin) return new Page(0, url.href, '', url.href)
      const headers = { cookie: [...this.cookies].map(([k, v]) => `${k}=${v}`).join('; '), 'sec-fetch-site': site, 'accept-language': 'en' }
      if (init.method === 'POST') headers.origin = this.origin
      const res = await fetch(url, { ...init, headers, redirect: 'manual' })
      for (const line of res.headers.getSetCookie()) {
        const [, name, value] = /^([^=]+)=([^;]*)/.exec(line)
        if (value) this.cookies.set(name, value)
        else this.cookies.delete(name)
      }
      this.at = url.href
      if (res.status < 300 || res.status > 399) return new Page(res.status, url.href, await res.text())
      to = res.headers.get('location')
      init = { method: 'GET' }
    }
    throw new Error(`too many redirects to ${to}`)
  }
}
