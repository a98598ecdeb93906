package pds

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds/pages"
)

const (
	maxForm       = 64 << 10
	pageTime      = 30 * time.Second
	accountPath   = "/account"
	signInPath    = "/account/sign-in"
	newPath       = "/account/new"
	forgottenPath = "/account/forgotten"
	resetPath     = "/account/reset"
	authorizePath = "/oauth/authorize"
)

// visit is one request for a page.
type visit struct {
	s      *Server
	w      http.ResponseWriter
	r      *http.Request
	form   url.Values // of a post
	lang   string
	device *device
	self   string // where this page is got again
}

// pageRoutes registers the pages. What changes something is a POST, and takes it from our own pages only.
func (s *Server) pageRoutes(m *xrpc.Mux) {
	mux := http.NewServeMux()
	page := func(pattern string, fn func(*visit) error) { mux.Handle(pattern, s.page(fn)) }
	// form is a page of an account with a form that leads back to it.
	form := func(name string, show, take func(*visit, signIn) error) {
		page("GET /account/{did}/"+name, s.mine(show))
		page("POST /account/{did}/"+name, s.mine(take))
	}
	page("GET /account", s.accountsPage)
	page("GET "+signInPath, s.signInPage)
	page("POST "+signInPath, s.signInForm)
	page("POST "+signInPath+"/code", s.codeForm)
	page("GET "+newPath, s.newPage)
	page("POST "+newPath, s.newForm)
	page("GET "+forgottenPath, s.forgottenPage)
	page("POST "+forgottenPath, s.forgottenForm)
	page("GET "+resetPath, s.resetPage)
	page("POST "+resetPath, s.resetForm)
	page("GET "+authorizePath, s.authorizePage)
	page("POST "+authorizePath, s.authorizeForm)
	page("GET /account/{did}", s.mine(s.accountPage))
	page("POST /account/{did}/sign-out", s.mine(s.signOutForm))
	form("apps", s.appsPage, s.appsForm)
	form("app-passwords", s.appPasswordsPage, s.appPasswordsForm)
	form("people", s.peoplePage, s.peopleForm)
	form("devices", s.devicesPage, s.devicesForm)
	form("password", s.passwordPage, s.passwordForm)
	form("two-step", s.twoStepPage, s.twoStepForm)
	form("handle", s.handlePage, s.handleForm)
	form("email", s.emailPage, s.emailForm)
	page("GET /account/{did}/data", s.mine(s.dataPage))
	page("GET /account/{did}/data/repo.car", s.mine(s.dataRepo))
	page("GET /account/{did}/data/blob/{cid}", s.mine(s.dataBlob))
	form("close", s.closePage, s.closeForm)
	page("/", func(v *visit) error { return v.fail(http.StatusNotFound, "notFound") })

	guarded := s.ownOrigin(mux)
	m.Handle("/account", guarded)
	m.Handle("/account/", guarded)
	m.Handle(authorizePath, guarded)
	m.Handle("GET /static/pds.css", http.StripPrefix("/static/", pages.Static()))
}

// ownOrigin refuses a form that another site sent. A page of an application on another port or sub-domain of ours still leads here, by a GET.
func (s *Server) ownOrigin(next http.Handler) http.Handler {
	cop := http.NewCrossOriginProtection()
	// Behind a proxy that rewrites Host, an old browser's Origin is compared with the address that the browser knows.
	if err := cop.AddTrustedOrigin(s.cfg.PublicURL); err != nil {
		panic(err) // Validate has seen the address
	}
	cop.SetDenyHandler(s.page(func(v *visit) error { return v.fail(http.StatusForbidden, "crossSite") }))
	return cop.Handler(next)
}

// page turns a func into a handler: it reads the form and the device, and answers what goes wrong with a page.
func (s *Server) page(fn func(*visit) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), pageTime)
		defer cancel()
		r = r.WithContext(ctx)
		pages.Guard(w.Header(), "")
		pages.Remember(w, r)
		v := &visit{s: s, w: w, r: r, lang: pages.Language(r), device: &device{}, self: r.URL.EscapedPath()}
		if r.Method == http.MethodGet && r.URL.RawQuery != "" {
			v.self += "?" + r.URL.RawQuery
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			v.settle(v.fail(http.StatusBadRequest, "badForm"))
			return
		}
		for _, list := range r.Form { // of the address and of the form
			if slices.ContainsFunc(list, func(text string) bool { return !storable(text) }) {
				v.settle(v.fail(http.StatusBadRequest, "badForm"))
				return
			}
		}
		v.form = r.PostForm
		d, err := s.deviceOf(r)
		if err == nil {
			v.device = d
			err = fn(v)
		}
		v.settle(err)
	})
}

// settle answers an error that a page could not show by itself.
func (v *visit) settle(err error) {
	var known *xrpc.Error
	switch {
	case err == nil:
		return
	case errors.As(err, &known) && known.Status != http.StatusInternalServerError:
		if known.RetryAfter > 0 {
			v.w.Header().Set("Retry-After", retryAfter(known.RetryAfter))
		}
		err = v.fail(known.Status, failureOf(known))
	case pg.Away(err):
		err = v.fail(http.StatusServiceUnavailable, "away")
	default:
		if v.r.Context().Err() == nil {
			v.s.log.Error("page", "path", pagePattern(v.r), "request_id", xrpc.RequestID(v.r.Context()), "error", err)
		}
		err = v.fail(http.StatusInternalServerError, "ourFault")
	}
	if err != nil {
		v.s.log.Error("page of an error", "error", err)
		http.Error(v.w, "internal server error", http.StatusInternalServerError)
	}
}

// failureOf is the phrase for a refusal that no form of ours explains.
func failureOf(e *xrpc.Error) string {
	switch {
	case e.Status == http.StatusTooManyRequests:
		return "tooMany"
	case e.Status > http.StatusInternalServerError:
		return "away"
	case slices.Contains([]string{"RepoSuspended", "RepoTakendown", "AccountTakedown"}, e.Name):
		return "accountClosed"
	case e.Name == "RepoNotFound":
		return "notFound"
	default:
		return "badForm"
	}
}

// pagePattern names the page and nobody's account.
func pagePattern(r *http.Request) string { return r.Pattern }

func (v *visit) fail(status int, key string) error {
	return v.show(status, "", pages.Failure{Key: key})
}

// show answers with a page. alert is the key of what was wrong with a form.
func (v *visit) show(status int, alert string, view pages.View) error {
	return v.s.pages.Render(v.w, pages.Answer{Lang: v.lang, Self: v.self, Status: status, Alert: alert, Notice: v.notice(), View: view})
}

// notice is what the form before this page did, told by ?done=.
func (v *visit) notice() string {
	key := "done." + v.r.URL.Query().Get("done")
	if v.r.Method != http.MethodGet || !pages.Has(key) {
		return ""
	}
	return key
}

// again shows a form once more, with what was wrong.
func (v *visit) again(alert string, view pages.View) error {
	return v.show(http.StatusUnprocessableEntity, alert, view)
}

// to leads the browser on after a form.
func (v *visit) to(path string) error {
	v.w.Header().Set("Location", path)
	v.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// mine is for the pages of an account that is signed in on this device. Others are asked to sign in, and are not told whether the account exists.
func (s *Server) mine(fn func(*visit, signIn) error) func(*visit) error {
	return func(v *visit) error {
		in, ok := v.device.of(v.r.PathValue("did"))
		if !ok {
			next := accountPath
			if v.r.Method == http.MethodGet {
				next = v.r.URL.EscapedPath()
			}
			return v.to(signInPath + "?next=" + url.QueryEscape(next))
		}
		return fn(v, in)
	}
}

func (in signIn) path() string { return accountPath + "/" + url.PathEscape(in.DID.String()) }

func (in signIn) who() pages.Who {
	return pages.Who{Handle: in.Handle, DID: in.DID.String(), Path: in.path()}
}

// onward keeps a way within these pages and drops every other: nobody is sent elsewhere by a link to our sign-in.
func onward(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || strings.ContainsAny(next, "\\\r\n\t") {
		return accountPath
	}
	switch p := u.Path; {
	case len(next) > 4096:
		return accountPath
	case p == authorizePath, p == accountPath, strings.HasPrefix(p, accountPath+"/"):
		return next
	}
	return accountPath
}

func retryAfter(d time.Duration) string { return strconv.Itoa(int(math.Ceil(d.Seconds()))) }
