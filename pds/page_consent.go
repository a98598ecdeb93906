package pds

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/oauth"
	"city-sync.org/citysync/pds/pages"
	"city-sync.org/citysync/pds/scope"
)

// The page on which an account's owner answers an application. It never answers by itself, whatever was allowed before, but for a
// confidential application that asks it to (prompt=none): a person sees each time who asks, and for what.

// authorizePage shows the request, once it is clear which account it is about.
func (s *Server) authorizePage(v *visit) error {
	q := v.r.URL.Query()
	p, err := s.apps.Pending(v.r.Context(), q.Get("client_id"), q.Get("request_uri"))
	if err != nil {
		return v.appError(err)
	}
	if p.Prompt == "none" {
		return s.answerSilently(v, p)
	}
	if p.Prompt == "create" && q.Get("as") == "" {
		return v.to(newPath + "?" + url.Values{"next": {v.self}}.Encode())
	}
	in, found := v.device.of(q.Get("as"))
	switch {
	case found:
	case p.Hint != "":
		if in, found, err = s.hinted(v, p.Hint); err != nil {
			return err
		} else if !found {
			return v.signInFor(p.Hint)
		}
	case len(v.device.signIns) == 0:
		return v.signInFor("")
	case len(v.device.signIns) > 1 || p.Prompt == "select_account":
		return v.show(http.StatusOK, "", s.chooseFor(v, p))
	default:
		in = v.device.signIns[0]
	}
	if stale(p, in) {
		return v.signInFor(in.Handle)
	}
	if in.Status == "suspended" {
		return v.fail(http.StatusForbidden, "accountClosed")
	}
	return s.showConsent(v, p, in)
}

// stale tells that the application wants the password to be given anew.
func stale(p *oauth.Pending, in signIn) bool {
	return p.Prompt == "login" && in.Created.Before(p.Asked)
}

// named finds an account by DID or handle.
func (d *device) named(hint string) (signIn, bool) {
	for _, in := range d.signIns {
		if in.DID.String() == hint || strings.EqualFold(in.Handle, hint) {
			return in, true
		}
	}
	return signIn{}, false
}

// hinted finds who is meant: an account that is signed in here, or one that acts for the organization that is meant.
func (s *Server) hinted(v *visit, hint string) (signIn, bool, error) {
	if in, found := v.device.named(hint); found {
		return in, true, nil
	}
	for _, in := range v.device.signIns {
		list, err := s.actAs(v.r.Context(), in.DID)
		if err != nil {
			return signIn{}, false, err
		}
		for _, org := range list {
			if org.means(hint) {
				return in, true, nil
			}
		}
	}
	return signIn{}, false, nil
}

func (c controlled) means(hint string) bool {
	return c.DID.String() == hint || strings.EqualFold(c.Handle, hint)
}

// signInFor asks for a password, and comes back here.
func (v *visit) signInFor(hint string) error {
	q := url.Values{"next": {v.self}, "add": {"1"}}
	if hint != "" {
		q.Set("hint", hint)
	}
	return v.to(signInPath + "?" + q.Encode())
}

func (s *Server) chooseFor(v *visit, p *oauth.Pending) pages.Choose {
	page := pages.Choose{Host: clientOf(p.Client).Host, Another: v.another()}
	for _, who := range v.device.who("") {
		u := *v.r.URL
		who.Path = withQuery(&u, "as", who.DID)
		page.Who = append(page.Who, who)
	}
	return page
}

func (v *visit) another() string {
	return signInPath + "?" + url.Values{"next": {v.self}, "add": {"1"}}.Encode()
}

// clientOf is who asks, as far as it is sure: the host at which the application's metadata stands, or nobody that is known.
func clientOf(c oauth.ClientInfo) pages.Client {
	u, err := url.Parse(c.ID)
	if err != nil || u.Scheme == "http" && u.Host == "localhost" && (u.Path == "" || u.Path == "/") {
		return pages.Client{Loopback: true}
	}
	return pages.Client{Host: u.Host, Name: c.Name, Trusted: c.Trusted}
}

func (s *Server) showConsent(v *visit, p *oauth.Pending, in signIn) error {
	q := v.r.URL.Query()
	page := pages.Consent{
		Client: clientOf(p.Client), Back: p.RedirectHost(), ClientID: q.Get("client_id"), RequestURI: q.Get("request_uri"),
		Who: in.who(), Asks: pages.Asks(v.lang, p.Scope), Another: v.another(),
	}
	orgs, err := s.actAs(v.r.Context(), in.DID)
	if err != nil {
		return err
	}
	for _, org := range orgs {
		page.ActFor = append(page.ActFor, pages.ActFor{DID: org.DID.String(), Handle: org.Handle, Role: org.Role, Meant: org.means(p.Hint)})
	}
	return s.pages.Render(v.w, pages.Answer{
		Lang: v.lang, Self: v.self, Status: http.StatusOK, View: page,
		// The scheme, not the host: browsers hold every redirect that follows the form against this, and an application may lead on
		// from its redirect URI to another host of its own. The page holds nothing that a form could carry away.
		FormAction: p.RedirectScheme() + ":",
	})
}

// authorizeForm takes the answer to the application.
func (s *Server) authorizeForm(v *visit) error {
	ctx, form := v.r.Context(), v.form
	v.self = authorizePath + "?" + url.Values{"client_id": {form.Get("client_id")}, "request_uri": {form.Get("request_uri")}}.Encode()
	p, err := s.apps.Pending(ctx, form.Get("client_id"), form.Get("request_uri"))
	if err != nil {
		return v.appError(err)
	}
	switch form.Get("do") {
	case "deny":
		to, err := s.apps.Refuse(ctx, p, oauth.CodeAccessDenied)
		return v.back(to, err)
	case "allow":
	default:
		return v.fail(http.StatusBadRequest, "badForm")
	}
	in, found := v.device.of(form.Get("as"))
	if !found || p.Prompt == "none" || stale(p, in) || in.Status == "suspended" {
		return v.to(v.self) // signed out meanwhile, or never shown: the page says what is to be done
	}
	words := []string{scope.Base}
	for _, word := range form["scope"] {
		if p.Scope.Has(word) {
			words = append(words, word)
		}
	}
	yes := oauth.Approval{Account: in.DID, Actor: in.DID, Scope: strings.Join(words, " "), Device: in.Words}
	if org := form.Get("for"); org != "" {
		if found, err := s.actFor(ctx, &yes, org); err != nil {
			return err
		} else if !found {
			return v.to(v.self) // the role ended meanwhile
		}
	}
	to, err := s.apps.Grant(ctx, p, yes)
	return v.back(to, err)
}

// actFor turns a yes for the person into one for an organization, within the person's role there.
func (s *Server) actFor(ctx context.Context, yes *oauth.Approval, org string) (found bool, err error) {
	list, err := s.actAs(ctx, yes.Actor)
	if err != nil {
		return false, err
	}
	for _, c := range list {
		if c.DID.String() != org {
			continue
		}
		asked, err := scope.Parse(yes.Scope, lexicons.PermissionSetOf)
		if err != nil {
			return false, err
		}
		yes.Account, yes.Scope = c.DID, asked.Within(c.Scope).String()
		return true, nil
	}
	return false, nil
}

// answerSilently answers without a page: yes only where the one account in question has allowed this application all of it before.
func (s *Server) answerSilently(v *visit, p *oauth.Pending) error {
	ctx := v.r.Context()
	list := v.device.signIns
	if p.Hint != "" {
		list = nil
		if in, found := v.device.named(p.Hint); found {
			list = []signIn{in}
		}
	}
	code := ""
	switch len(list) {
	case 0:
		code = "login_required"
	case 1:
		covered, err := s.allowedBefore(v, p, list[0])
		if err != nil {
			return err
		}
		if !covered {
			code = "consent_required"
		}
	default:
		code = "account_selection_required"
	}
	if code != "" {
		to, err := s.apps.Refuse(ctx, p, code)
		return v.back(to, err)
	}
	to, err := s.apps.Grant(ctx, p, oauth.Approval{Account: list[0].DID, Actor: list[0].DID, Device: list[0].Words})
	return v.back(to, err)
}

func (s *Server) allowedBefore(v *visit, p *oauth.Pending, in signIn) (bool, error) {
	if in.Status != statusActive {
		return false, nil
	}
	sessions, err := s.apps.Sessions(v.r.Context(), in.DID)
	if err != nil {
		return false, err
	}
	for _, ses := range sessions {
		if ses.Client == p.Client.ID && ses.Account == in.DID && ses.Actor == in.DID && ses.Scope != nil && p.Scope.Within(ses.Scope).String() == p.Scope.String() {
			return true, nil
		}
	}
	return false, nil
}

// back leads to the application with its answer.
func (v *visit) back(to string, err error) error {
	if err != nil {
		return v.appError(err)
	}
	return v.to(to)
}

// appError says that a request cannot be answered. There is nowhere to redirect to: an address that was not checked is no place to send anybody.
func (v *visit) appError(err error) error {
	var known *oauth.Error
	if !errors.As(err, &known) {
		return err
	}
	return v.show(known.Status, "", pages.AppRequest{Code: known.Code, Description: known.Description})
}
