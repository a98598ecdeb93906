// Package web serves the AppView's pages: plain HTML that works without JavaScript, in English and Spanish, on a 320 px phone.
//
// Every figure comes from the query layer, and so from the ledger's log as the index checked it; every figure opens to the signed record or
// log entry behind it. GET changes nothing.
package web

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/clock"
)

//go:embed templates/*.html
var templates embed.FS

//go:embed static/*
var static embed.FS

// Config says how the pages speak.
type Config struct {
	Demonstration bool   // every page says that the organizations are a demonstration, without affiliation
	LedgerURL     string // where log entries and evidence open
	PDSURL        string // where records open in their raw form
	Clock         clock.Clock
	Log           *slog.Logger
}

// Pages renders the city's pages from its index.
type Pages struct {
	cfg Config
	db  *query.DB
	tpl map[string]*template.Template
	mux *http.ServeMux
}

// New makes the pages of the city behind db. It fails only when a template of ours does not parse.
func New(cfg Config, db *query.DB) (*Pages, error) {
	p := &Pages{cfg: cfg, db: db, tpl: map[string]*template.Template{}, mux: http.NewServeMux()}
	for _, name := range []string{"city", "task", "offering", "record", "entry", "log", "epochs", "epoch", "disputes", "dispute", "receipt", "error"} {
		t, err := template.New("layout.html").Funcs(funcs).ParseFS(templates, "templates/layout.html", "templates/"+name+".html")
		if err != nil {
			return nil, err
		}
		p.tpl[name] = t
	}
	files, err := fs.Sub(static, "static")
	if err != nil {
		return nil, err
	}
	p.mux.HandleFunc("GET /{$}", p.page("city", p.city))
	p.mux.HandleFunc("GET /task/{did}/{rkey}", p.page("task", p.task))
	p.mux.HandleFunc("GET /offering/{did}/{rkey}", p.page("offering", p.offering))
	p.mux.HandleFunc("GET /epochs", p.page("epochs", p.epochs))
	p.mux.HandleFunc("GET /epoch/{book}/{epoch}", p.page("epoch", p.epoch))
	p.mux.HandleFunc("GET /disputes", p.page("disputes", p.disputes))
	p.mux.HandleFunc("GET /dispute/{did}/{rkey}", p.page("dispute", p.dispute))
	p.mux.HandleFunc("GET /receipts/{seq}", p.page("receipt", p.receipt))
	p.mux.HandleFunc("GET /receipts/{seq}/proof", p.proof)
	p.mux.HandleFunc("GET /record/{did}/{coll}/{rkey}", p.page("record", p.record))
	p.mux.HandleFunc("GET /log/{kind}", p.page("log", p.log))
	p.mux.HandleFunc("GET /entry/{seq}", p.page("entry", p.entry))
	p.mux.Handle("GET /static/", cached(http.StripPrefix("/static/", http.FileServerFS(files))))
	p.mux.HandleFunc("GET /", p.page("error", func(context.Context, *http.Request, layout) (any, error) { return nil, query.ErrNotFound }))
	return p, nil
}

func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.mux.ServeHTTP(w, r) }

// layout is what every template gets.
type layout struct {
	Lang          string
	Path          string // of this page, for the language links
	Demonstration bool
	City          query.City
	TZ            *time.Location
	Finality      query.Finality
	Paused        []query.Pause // of the whole city
	Page          any
}

// T gives a phrase in the page's language.
func (l layout) T(key string) string { return phrase(l.Lang, key) }

// Word gives the phrase for a word of a record, after its prefix. A word that has none is shown as it was written.
func (l layout) Word(prefix, word string) string {
	if p, ok := lookUp(prefix + word); ok && l.Lang == "es" {
		return p.es
	} else if ok {
		return p.en
	}
	return word
}

// Day gives the local day of t as its readers write it.
func (l layout) Day(t time.Time) string {
	t = t.In(l.TZ)
	month := t.Format("January")
	if l.Lang == "es" {
		return fmt.Sprintf("%d de %s de %d", t.Day(), phrase("es", month), t.Year())
	}
	return fmt.Sprintf("%d %s %d", t.Day(), month, t.Year())
}

// Minute is Day with the local time of day.
func (l layout) Minute(t time.Time) string { return l.Day(t) + ", " + t.In(l.TZ).Format("15:04") }

// loader reads what a page shows. It may ask the layout how to say it.
type loader func(context.Context, *http.Request, layout) (any, error)

// standing loads what every page says: how final the log is, and what is paused in the whole city.
func (p *Pages) standing(ctx context.Context, l *layout) error {
	var err error
	if l.Finality, err = p.db.Finality(ctx); err != nil && !errors.Is(err, query.ErrNotFound) {
		return err
	}
	all, err := p.db.CityPauses(ctx, p.cfg.Clock.Now())
	for _, pause := range all {
		if pause.Org == "" {
			l.Paused = append(l.Paused, pause)
		}
	}
	return err
}

func (p *Pages) page(name string, load loader) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		l := layout{Lang: language(r), Path: r.URL.EscapedPath(), Demonstration: p.cfg.Demonstration, TZ: time.UTC}
		city, err := p.db.CityRecord(ctx)
		switch {
		case errors.Is(err, query.ErrNotFound):
			p.render(w, "error", http.StatusServiceUnavailable, withPage(l, errorPage{"notYet"}))
			return
		case err != nil:
			p.fail(w, r, l, err)
			return
		}
		l.City = city
		if tz, err := time.LoadLocation(city.TZ); err == nil {
			l.TZ = tz
		}
		if err := p.standing(ctx, &l); err != nil {
			p.fail(w, r, l, err)
			return
		}
		if r.URL.Query().Get("lang") != "" {
			http.SetCookie(w, &http.Cookie{Name: "lang", Value: l.Lang, Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true, SameSite: http.SameSiteLaxMode})
		}
		l.Page, err = load(ctx, r, l)
		switch {
		case errors.Is(err, query.ErrNotFound), errors.Is(err, query.ErrBadCursor):
			p.render(w, "error", http.StatusNotFound, withPage(l, errorPage{"notFound"}))
		case err != nil:
			p.fail(w, r, l, err)
		default:
			p.render(w, name, http.StatusOK, l)
		}
	}
}

func (p *Pages) fail(w http.ResponseWriter, r *http.Request, l layout, err error) {
	if r.Context().Err() == nil {
		p.cfg.Log.Error("page", "path", r.URL.Path, "err", err)
	}
	p.render(w, "error", http.StatusInternalServerError, withPage(l, errorPage{"ourFault"}))
}

func (p *Pages) render(w http.ResponseWriter, name string, status int, l layout) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", l.Lang)
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Vary", "Accept-Language, Cookie")
	w.WriteHeader(status)
	if err := p.tpl[name].ExecuteTemplate(w, "layout.html", l); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		p.cfg.Log.Warn("render", "page", name, "err", err)
	}
}

func withPage(l layout, page any) layout {
	l.Page = page
	return l
}

// errorPage names the phrase that says what went wrong.
type errorPage struct{ Key string }

func cached(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		h.ServeHTTP(w, r)
	})
}
