package pds

import (
	"errors"
	"html/template"
	"net/http"
	"strings"

	"rsc.io/qr"

	"city-sync.org/citysync/internal/qrsvg"
	"city-sync.org/citysync/pds/pages"
)

// codeForm takes the second half of a sign-in.
func (s *Server) codeForm(v *visit) error {
	ctx := v.r.Context()
	next := onward(v.form.Get("next"))
	v.self = signInPath
	acc, err := s.readTicket(ctx, v.form.Get("ticket"))
	if err != nil {
		return err
	}
	if acc == nil {
		return v.again("ticketOver", pages.SignIn{Next: next, Client: waiting(next)})
	}
	page := pages.SignInCode{Next: next, Ticket: v.form.Get("ticket")}
	ok, err := s.tryFactor(ctx, acc.DID.String(), v.form.Get("code"))
	if err != nil {
		return err
	}
	if !ok {
		return v.again("codeWrong", page)
	}
	return s.enter(v, acc, next, page)
}

func (s *Server) twoStepPage(v *visit, in signIn) error {
	page, err := s.twoStep(v, in)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "", page)
}

func (s *Server) twoStep(v *visit, in signIn) (pages.TwoStep, error) {
	page := pages.TwoStep{Who: in.who()}
	var err error
	if page.On, err = s.totpOn(v.r.Context(), in.DID.String()); err != nil || !page.On {
		return page, err
	}
	page.Left, err = s.totpLeft(v.r.Context(), in.DID.String())
	return page, err
}

// twoStepForm sets the second factor up and takes it away. All but the confirmation ask for the password, and what weakens an account
// that has a second factor asks for that as well.
func (s *Server) twoStepForm(v *visit, in signIn) error {
	ctx, owner, form := v.r.Context(), in.DID.String(), v.form
	page, err := s.twoStep(v, in)
	if err != nil {
		return err
	}
	if form.Get("do") == "confirm" {
		return s.confirmTwoStep(v, in, page)
	}
	if ok, err := s.proven(v, in); err != nil {
		return err
	} else if !ok {
		return v.again("passwordWrong", page)
	}
	if form.Get("do") == "begin" {
		secret, err := s.totpBegin(ctx, owner)
		if errors.Is(err, errFactorOn) {
			return v.to(in.path() + "/two-step")
		}
		if err != nil {
			return err
		}
		return s.showSetup(v, in, page, secret, http.StatusOK, "")
	}
	if ok, err := s.tryFactor(ctx, owner, form.Get("code")); err != nil {
		return err
	} else if !ok {
		return v.again("codeWrong", page)
	}
	switch form.Get("do") {
	case "renew":
		if page.Codes, err = s.totpRenew(ctx, owner); err != nil {
			return err
		}
		page.Left = len(page.Codes)
		return v.show(http.StatusOK, "", page)
	case "off":
		if err := s.totpRemove(ctx, owner); err != nil {
			return err
		}
		return v.to(in.path() + "/two-step?done=factorOff")
	}
	return v.fail(http.StatusBadRequest, "badForm")
}

func (s *Server) confirmTwoStep(v *visit, in signIn, page pages.TwoStep) error {
	ctx, owner := v.r.Context(), in.DID.String()
	if err := s.limitFactor(owner); err != nil {
		return err
	}
	codes, err := s.totpConfirm(ctx, owner, v.form.Get("code"))
	switch {
	case errors.Is(err, errFactorOn):
		return v.to(in.path() + "/two-step")
	case err != nil:
		return err
	case codes == nil:
		secret, err := s.totpSecret(ctx, owner, false)
		if err != nil {
			return err
		}
		if secret == nil {
			return v.again("setupOver", page)
		}
		return s.showSetup(v, in, page, secret, http.StatusUnprocessableEntity, "codeWrong")
	}
	page.On, page.Codes, page.Left = true, codes, len(codes)
	return v.show(http.StatusOK, "", page)
}

func (s *Server) showSetup(v *visit, in signIn, page pages.TwoStep, secret []byte, status int, alert string) (err error) {
	if page.Setup, err = setup(v.lang, totpURI(s.netloc, in.Handle, secret), secret); err != nil {
		return err
	}
	return v.show(status, alert, page)
}

// setup shows the secret three ways: for a phone's camera, for the phone that shows this page, and for typing.
func setup(lang, uri string, secret []byte) (*pages.Setup, error) {
	code, err := qr.Encode(uri, qr.M)
	if err != nil {
		return nil, err
	}
	var groups []string
	for text := base32Plain.EncodeToString(secret); text != ""; text = text[4:] {
		groups = append(groups, text[:4])
	}
	return &pages.Setup{
		Code:   qrsvg.Draw(code, pages.Phrase(lang, "qrAlt")),
		Link:   template.URL(uri), // made of our own host, a name and base32
		Secret: strings.Join(groups, " "),
	}, nil
}
