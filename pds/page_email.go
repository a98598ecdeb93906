package pds

import (
	"net/http"
	"strings"

	"city-sync.org/citysync/pds/pages"
)

// wordAlert is the phrase for what was wrong with a mailed code or with mailing it; empty where it is none of these.
func wordAlert(err error) string {
	switch refusalName(err) {
	case "InvalidToken", "TokenRequired":
		return "wordWrong"
	case "ExpiredToken":
		return "wordOver"
	case "MailNotConfigured":
		return "noMail"
	case "MailNotSent":
		return "mailNotSent"
	case "NoEmail":
		return "noEmail"
	case "EmailNotAvailable":
		return "emailTaken"
	case "InvalidEmail", "InvalidRequest":
		return "emailBad"
	}
	return ""
}

func (s *Server) emailPage(v *visit, in signIn) error {
	acc, err := s.findAccount(v.r.Context(), in.DID.String())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "", s.emailOf(acc, in))
}

func (s *Server) emailOf(acc *account, in signIn) pages.Email {
	page := pages.Email{Who: in.who(), Confirmed: acc.EmailConfirmed != nil, Mail: s.mail != nil}
	if acc.Email != nil {
		page.Address = *acc.Email
	}
	return page
}

func (s *Server) emailForm(v *visit, in signIn) error {
	ctx, form := v.r.Context(), v.form
	acc, err := s.findAccount(ctx, in.DID.String())
	if err != nil {
		return err
	}
	page := s.emailOf(acc, in)
	done := ""
	switch form.Get("do") {
	case "send-confirm":
		done, err = "wordSent", s.sendWord(ctx, acc, wordConfirmEmail, letterConfirmEmail)
	case "send-change":
		done, err = "wordSent", s.sendWord(ctx, acc, wordUpdateEmail, letterUpdateEmail)
	case "confirm":
		done, err = "emailConfirmed", s.confirmAddress(ctx, in.DID, page.Address, form.Get("word"), s.clock.Now())
	case "change":
		page.Wanted = strings.TrimSpace(form.Get("email"))
		ok, perr := s.proven(v, in)
		if perr != nil {
			return perr
		}
		if !ok {
			return v.again("passwordWrong", page)
		}
		done, err = "email", s.newAddress(v, acc, page.Wanted)
	default:
		return v.fail(http.StatusBadRequest, "badForm")
	}
	if alert := wordAlert(err); alert != "" {
		return v.again(alert, page)
	}
	if err != nil {
		return err
	}
	return v.to(in.path() + "/email?done=" + done)
}

// newAddress is updateEmail for a form whose sender gave the account's password.
func (s *Server) newAddress(v *visit, acc *account, raw string) error {
	ctx := v.r.Context()
	email, err := normalEmail(raw)
	if err != nil {
		return err
	}
	// Each try tells whether another account has the address, so there are few.
	if err := s.limitOwner(ctx, nil, limitMail, acc.DID, 1); err != nil {
		return err
	}
	if acc.EmailConfirmed != nil {
		if err := s.useWord(ctx, acc.DID, wordUpdateEmail, v.form.Get("word")); err != nil {
			return err
		}
	}
	return s.changeEmail(ctx, acc.DID, email)
}

func (s *Server) forgottenPage(v *visit) error {
	return v.show(http.StatusOK, "", pages.Forgotten{})
}

// forgottenForm answers alike whether or not an account has the address.
func (s *Server) forgottenForm(v *visit) error {
	page := pages.Forgotten{Address: strings.TrimSpace(v.form.Get("email"))}
	email, err := normalEmail(page.Address)
	if err != nil {
		return v.again("emailBad", page)
	}
	if err := s.limitAddress(nil, s.ip(v.r), limitRequestPasswordReset, ""); err != nil {
		return err
	}
	err = s.askReset(email)
	if alert := wordAlert(err); alert != "" {
		return v.again(alert, page)
	}
	if err != nil {
		return err
	}
	return v.to(resetPath + "?done=resetSent")
}

func (s *Server) resetPage(v *visit) error { return v.show(http.StatusOK, "", pages.Reset{}) }

func (s *Server) resetForm(v *visit) error {
	form := v.form
	if err := s.limitAddress(nil, s.ip(v.r), limitResetPassword, ""); err != nil {
		return err
	}
	switch fresh := form.Get("new"); {
	case checkPassword(fresh) != nil:
		return v.again("passwordShort", pages.Reset{})
	case fresh != form.Get("again"):
		return v.again("passwordTwo", pages.Reset{})
	}
	err := s.resetByWord(v.r.Context(), form.Get("word"), form.Get("new"), s.clock.Now())
	if alert := wordAlert(err); alert != "" {
		return v.again(alert, pages.Reset{})
	}
	if err != nil {
		return err
	}
	return v.to(signInPath + "?done=reset")
}
