// Package pages renders the PDS's own pages: sign-in, consent and the account's. They are plain HTML that works without JavaScript, in English
// and Spanish, on a 320 px phone.
//
// What holds here:
//   - A page gets one typed struct and nothing else. Every word that a stranger chose (a client's name, a device's) is escaped by html/template.
//   - No page runs a script, loads anything from elsewhere, is framed, is kept in a cache, or tells the next site where the reader came from.
//   - A form posts to this server only. The consent page alone lets the answer lead elsewhere: see Answer.FormAction.
package pages

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"
)

//go:embed templates/*.html
var templates embed.FS

//go:embed static/*
var static embed.FS

// Pages holds the parsed templates.
type Pages struct {
	host string
	tpl  map[string]*template.Template
}

// New makes the pages of the server named host. It fails only when a template of ours does not parse.
func New(host string) (*Pages, error) {
	p := &Pages{host: host, tpl: map[string]*template.Template{}}
	files, err := fs.Glob(templates, "templates/*.html")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "templates/"), ".html")
		if name == "layout" || name == "parts" {
			continue
		}
		t, err := template.New("layout.html").ParseFS(templates, "templates/layout.html", "templates/parts.html", file)
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		p.tpl[name] = t
	}
	return p, nil
}

// View is what one page shows. Its name is its template's.
type View interface{ view() string }

// Answer is one rendering.
type Answer struct {
	Lang   string
	Self   string // path and query at which this page is got again, for the language links
	Status int
	Notice string // key of a phrase that says what has just been done
	Alert  string // key of a phrase that says what was wrong with a form
	View   View
	// FormAction are further sources to which a form's answer may lead. Browsers hold every redirect after a post against form-action, so the
	// consent page names the scheme of the application that it leads back to.
	FormAction string
}

// layout is what every template gets.
type layout struct {
	Lang, Host    string
	Languages     []link
	Notice, Alert string
	Page          View
}

type link struct {
	Lang, Name, URL string
	Current         bool
}

// T gives a phrase in the page's language.
func (l layout) T(key string) string { return phrase(l.Lang, key) }

// F gives a phrase with its figures or names in place.
func (l layout) F(key string, a ...any) string { return F(l.Lang, key, a...) }

// Minute is Day with the time of day, which is that of Greenwich: a server serves several places.
func (l layout) Minute(t time.Time) string { return l.Day(t) + ", " + t.UTC().Format("15:04") + " UTC" }

// Act gives the words for what was done.
func (l layout) Act(action string) string {
	if key := "act." + action; Has(key) {
		return phrase(l.Lang, key)
	}
	return action
}

// What names what something was done with: a role, a record by its kind, or a method.
func (l layout) What(path string) string {
	name, rest := path, ""
	if i := strings.IndexAny(path, "/ "); i >= 0 {
		name, rest = path[:i], path[i+1:]
	}
	for _, prefix := range []string{"short.", "nsid."} {
		if Has(prefix + name) {
			return strings.TrimSpace(phrase(l.Lang, prefix+name) + " " + rest)
		}
	}
	return path
}

// Day gives the day of t as its readers write it.
func (l layout) Day(t time.Time) string {
	t = t.UTC()
	month := t.Format("January")
	if l.Lang == "es" {
		return fmt.Sprintf("%d de %s de %d", t.Day(), phrase("es", month), t.Year())
	}
	return fmt.Sprintf("%d %s %d", t.Day(), month, t.Year())
}

// Size gives a number of bytes as people read it.
func (l layout) Size(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	default:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
}

// Render writes one page.
func (p *Pages) Render(w http.ResponseWriter, a Answer) error {
	t, ok := p.tpl[a.View.view()]
	if !ok {
		return fmt.Errorf("no page is named %q", a.View.view())
	}
	l := layout{Lang: a.Lang, Host: p.host, Languages: languages(a.Lang, a.Self), Notice: a.Notice, Alert: a.Alert, Page: a.View}
	var out bytes.Buffer // whole, or not at all: half a form is worse than an error
	if err := t.ExecuteTemplate(&out, "layout.html", l); err != nil {
		return fmt.Errorf("render %s: %w", a.View.view(), err)
	}
	Guard(w.Header(), a.FormAction)
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", a.Lang)
	w.WriteHeader(a.Status)
	_, _ = w.Write(out.Bytes()) // the reader has gone if this errs
	return nil
}

// Guard sets the headers that every answer of the pages carries, redirects included.
func Guard(h http.Header, formAction string) {
	// The rest of this server answers every origin. A page is read by its own reader alone.
	h.Del("Access-Control-Allow-Origin")
	h.Del("Access-Control-Expose-Headers")
	action := strings.TrimSpace("'self' " + formAction)
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action "+action+"; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
}

// Static serves the style sheet.
func Static() http.Handler {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // the folder is embedded
	}
	serve := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		serve.ServeHTTP(w, r)
	})
}

// Has tells whether there is a phrase for key.
func Has(key string) bool {
	_, ok := lookUp(key)
	return ok
}

func languages(current, self string) []link {
	var out []link
	for _, l := range []struct{ tag, name string }{{"en", "English"}, {"es", "Español"}} {
		u, err := url.Parse(self)
		if err != nil {
			u = &url.URL{Path: "/account"}
		}
		q := u.Query()
		q.Set("lang", l.tag)
		out = append(out, link{Lang: l.tag, Name: l.name, URL: u.EscapedPath() + "?" + q.Encode(), Current: l.tag == current})
	}
	return out
}
