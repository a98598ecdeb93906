package pds

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/pds/oauth"
	"city-sync.org/citysync/pds/pages"
)

func (s *Server) appsPage(v *visit, in signIn) error {
	sessions, err := s.apps.Sessions(v.r.Context(), in.DID)
	if err != nil {
		return err
	}
	page := pages.Apps{Who: in.who()}
	var others []syntax.DID
	for _, ses := range sessions {
		others = append(others, ses.Account, ses.Actor)
	}
	names, err := s.handles(v.r.Context(), others)
	if err != nil {
		return err
	}
	for _, ses := range sessions {
		client := clientOf(oauth.ClientInfo{ID: ses.Client, Name: ses.Name})
		app := pages.App{ID: ses.ID, Client: client, Device: ses.Device, Created: ses.Created, Used: ses.Used}
		if ses.Scope != nil {
			app.Asks = pages.Asks(v.lang, ses.Scope)
		}
		if ses.Actor != in.DID {
			app.By = cmp.Or(names[ses.Actor], ses.Actor.String())
		}
		if ses.Account != in.DID {
			app.For = cmp.Or(names[ses.Account], ses.Account.String())
		}
		page.Apps = append(page.Apps, app)
	}
	return v.show(http.StatusOK, "", page)
}

func (s *Server) appsForm(v *visit, in signIn) error {
	ctx := v.r.Context()
	if v.form.Get("all") == "1" {
		if err := s.apps.EndAll(ctx, in.DID); err != nil {
			return err
		}
		return v.to(in.path() + "/apps?done=appsAll")
	}
	if err := s.apps.End(ctx, in.DID, v.form.Get("app")); err != nil {
		return err
	}
	return v.to(in.path() + "/apps?done=app")
}

func (s *Server) appPasswordsPage(v *visit, in signIn) error {
	page, err := s.appPasswordsOf(v, in)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "", page)
}

func (s *Server) appPasswordsOf(v *visit, in signIn) (pages.AppPasswords, error) {
	page := pages.AppPasswords{Who: in.who()}
	list, err := s.appPasswords(v.r.Context(), in.DID)
	for _, p := range list {
		page.List = append(page.List, pages.AppPassword{Name: p.Name, Privileged: p.Privileged, Created: p.Created})
	}
	return page, err
}

// appPasswordsForm makes or revokes an app password. A new one goes round the second step, so making it asks for the account's password.
func (s *Server) appPasswordsForm(v *visit, in signIn) error {
	ctx, form := v.r.Context(), v.form
	name := strings.TrimSpace(form.Get("name"))
	if form.Get("do") == "revoke" {
		if err := s.dropAppPassword(ctx, in.DID, form.Get("name")); err != nil {
			return err
		}
		return v.to(in.path() + "/app-passwords?done=appPassword")
	}
	alert := ""
	var made string
	ok, err := s.proven(v, in)
	switch {
	case err != nil:
		return err
	case !ok:
		alert = "passwordWrong"
	default:
		made, err = s.makeAppPassword(ctx, in.DID, name, form.Get("privileged") == "1", s.clock.Now())
		switch refusalName(err) {
		case "":
			if err != nil {
				return err
			}
		case "AppPasswordExists":
			alert = "appNameTaken"
		case "TooManyAppPasswords":
			alert = "appPasswordsMany"
		default:
			alert = "appNameBad"
		}
	}
	page, err := s.appPasswordsOf(v, in)
	if err != nil {
		return err
	}
	if alert != "" {
		page.Name = name
		return v.again(alert, page)
	}
	page.Made = made
	return v.show(http.StatusOK, "", page)
}
