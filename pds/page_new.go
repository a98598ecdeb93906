package pds

import (
	"net/http"
	"strings"

	"city-sync.org/citysync/pds/pages"
)

func (s *Server) newPage(v *visit) error {
	q := v.r.URL.Query()
	return v.show(http.StatusOK, "", pages.NewAccount{
		Next: onward(q.Get("next")), Domains: s.cfg.HandleDomains, InviteNeeded: s.cfg.InviteRequired, Invite: q.Get("invite"),
	})
}

// newForm makes an account and signs it in. Sent again after a failure half way, the same form goes on from there.
func (s *Server) newForm(v *visit) error {
	ctx, form := v.r.Context(), v.form
	page := pages.NewAccount{
		Next: onward(form.Get("next")), Domains: s.cfg.HandleDomains, InviteNeeded: s.cfg.InviteRequired,
		Name: strings.TrimPrefix(strings.ToLower(strings.TrimSpace(form.Get("name"))), "@"), Domain: form.Get("domain"),
		Email: strings.TrimSpace(form.Get("email")), Invite: strings.ToLower(strings.TrimSpace(form.Get("invite"))),
	}
	if err := s.limitAddress(nil, s.ip(v.r), limitCreateAccount, ""); err != nil {
		return err
	}
	handle, err := s.cfg.ownHandle(page.Name + page.Domain)
	switch {
	case refusalName(err) == "HandleNotAvailable":
		return v.again("handleTaken", page)
	case err != nil:
		return v.again("newHandleBad", page)
	case checkPassword(form.Get("new")) != nil:
		return v.again("passwordShort", page)
	case form.Get("new") != form.Get("again"):
		return v.again("passwordTwo", page)
	case s.cfg.InviteRequired && page.Invite == "":
		return v.again("inviteCodeBad", page)
	}
	if page.Email != "" {
		if _, err := normalEmail(page.Email); err != nil {
			return v.again("emailBad", page)
		}
	}
	acc, err := s.newAccount(ctx, signupRequest{Handle: handle, Password: form.Get("new"), Email: page.Email, Invite: page.Invite}, s.clock.Now())
	switch refusalName(err) {
	case "HandleNotAvailable":
		return v.again("handleTaken", page)
	case "EmailNotAvailable":
		return v.again("emailTaken", page)
	case "InvalidInviteCode":
		return v.again("inviteCodeBad", page)
	case "DirectoryUnavailable":
		return v.again("directoryAway", page)
	}
	if err != nil {
		return err
	}
	return s.enter(v, acc, page.Next, page)
}
