package pds

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"city-sync.org/citysync/pds/pages"
)

func (s *Server) signInPage(v *visit) error {
	next := onward(v.r.URL.Query().Get("next"))
	if len(v.device.signIns) > 0 && v.r.URL.Query().Get("add") == "" && next == accountPath {
		return v.to(accountPath)
	}
	return v.show(http.StatusOK, "", pages.SignIn{Next: next, New: newPath + "?" + url.Values{"next": {next}}.Encode(), Client: waiting(next), Identifier: v.r.URL.Query().Get("hint")})
}

// waiting is the host of the application for which somebody signs in, as far as the address of the consent page tells it.
func waiting(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Path != authorizePath {
		return ""
	}
	client, err := url.Parse(u.Query().Get("client_id"))
	if err != nil {
		return ""
	}
	return client.Host
}

func (s *Server) signInForm(v *visit) error {
	next := onward(v.form.Get("next"))
	identifier := strings.TrimPrefix(strings.TrimSpace(v.form.Get("identifier")), "@")
	v.self = signInPath + "?next=" + url.QueryEscape(next)
	form := pages.SignIn{Next: next, New: newPath + "?" + url.Values{"next": {next}}.Encode(), Client: waiting(next), Identifier: identifier}
	password := v.form.Get("password")
	if identifier == "" || len(identifier) > 2048 || password == "" {
		return v.again("wrongPassword", form)
	}
	acc, err := s.byPassword(v.r.Context(), s.ip(v.r), identifier, password)
	switch refusalName(err) {
	case "AuthenticationRequired":
		return v.again("wrongPassword", form)
	case "AccountTakedown":
		return v.again("takendown", form)
	}
	if err != nil {
		return err
	}
	switch on, err := s.totpOn(v.r.Context(), acc.DID.String()); {
	case err != nil:
		return err
	case on:
		sealed, err := s.ticketFor(acc)
		if err != nil {
			return err
		}
		return v.show(http.StatusOK, "", pages.SignInCode{Next: next, Ticket: sealed})
	}
	return s.enter(v, acc, next, form)
}

// enter signs an account in on the visitor's device and leads on.
func (s *Server) enter(v *visit, acc *account, next string, form pages.View) error {
	switch err := s.admit(v.w, v.r, v.device, acc.DID); {
	case errors.Is(err, errDeviceFull):
		return v.again("tooManyOnOne", form)
	case err != nil:
		return err
	}
	s.metrics.sessions.Inc()
	switch u, err := url.Parse(next); {
	case next == accountPath:
		next = signIn{DID: acc.DID}.path()
	case err == nil && u.Path == authorizePath: // the answer to the application is this account's
		next = withQuery(u, "as", acc.DID.String())
	}
	return v.to(next)
}

func withQuery(u *url.URL, name, value string) string {
	q := u.Query()
	q.Del("lang") // chosen once
	q.Set(name, value)
	return u.EscapedPath() + "?" + q.Encode()
}

// signOutForm ends the sign-in of one account on this device; the others stay.
func (s *Server) signOutForm(v *visit, in signIn) error {
	if err := s.signOut(v.r.Context(), in.DID, in.ID); err != nil {
		return err
	}
	if len(v.device.signIns) == 1 {
		http.SetCookie(v.w, s.deviceCookie("", -1))
		return v.to(signInPath + "?done=out")
	}
	return v.to(accountPath + "?done=out")
}
