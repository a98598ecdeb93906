package pds

import (
	"errors"
	"net/http"
	"strings"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds/pages"
)

// sentence is what one of our refusals says for those who read English; empty for every other error.
func sentence(err error) string {
	var known *xrpc.Error
	if errors.As(err, &known) && known.Status < 500 {
		return known.Message
	}
	return ""
}

func (s *Server) handlePage(v *visit, in signIn) error {
	return v.show(http.StatusOK, "", s.handleOf(in))
}

func (s *Server) handleOf(in signIn) pages.Handle {
	return pages.Handle{Who: in.who(), Domains: s.cfg.HandleDomains}
}

func (s *Server) handleForm(v *visit, in signIn) error {
	ctx, page := v.r.Context(), s.handleOf(in)
	page.Wanted = strings.ToLower(strings.TrimPrefix(strings.TrimSpace(v.form.Get("handle")), "@"))
	acc, err := s.findAccount(ctx, in.DID.String())
	if err != nil {
		return err
	}
	if err := acc.mustBeOwned(); err != nil {
		return err
	}
	if err := s.limitOwner(ctx, nil, limitUpdateHandle, in.DID, 1); err != nil {
		return err
	}
	if err := s.changeHandle(ctx, acc, page.Wanted); err != nil {
		if page.Detail = sentence(err); page.Detail == "" {
			return err
		}
		if refusalName(err) == "HandleNotAvailable" {
			return v.again("handleTaken", page)
		}
		return v.again("handleNot", page)
	}
	return v.to(in.path() + "/handle?done=handle")
}

// closePage is the way out: a rest, or the end.
func (s *Server) closePage(v *visit, in signIn) error {
	page, err := s.closing(v, in)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "", page)
}

func (s *Server) closing(v *visit, in signIn) (pages.Close, error) {
	ctx := v.r.Context()
	acc, err := s.findAccount(ctx, in.DID.String())
	if err != nil {
		return pages.Close{}, err
	}
	page := pages.Close{Who: in.who(), Status: acc.Status, Mailed: acc.Email != nil}
	if !page.Mailed {
		page.Factor, err = s.totpOn(ctx, in.DID.String())
	}
	return page, err
}

func (s *Server) closeForm(v *visit, in signIn) error {
	ctx, form := v.r.Context(), v.form
	page, err := s.closing(v, in)
	if err != nil {
		return err
	}
	if form.Get("do") == "send" {
		acc, err := s.findAccount(ctx, in.DID.String())
		if err != nil {
			return err
		}
		err = s.sendWord(ctx, acc, wordDelete, letterDelete)
		if alert := wordAlert(err); alert != "" {
			return v.again(alert, page)
		}
		if err != nil {
			return err
		}
		return v.to(in.path() + "/close?done=wordSent")
	}
	if ok, err := s.proven(v, in); err != nil {
		return err
	} else if !ok {
		return v.again("passwordWrong", page)
	}
	switch form.Get("do") {
	case "delete":
		return s.endAccount(v, in, page)
	case "rest":
		if err := s.deactivate(ctx, in.DID, nil, s.clock.Now()); err != nil {
			return err
		}
		return v.to(in.path() + "/close?done=rest")
	case "activate":
		acc, err := s.findAccount(ctx, in.DID.String())
		if err != nil {
			return err
		}
		if err := s.activateAgain(ctx, acc); err != nil {
			if detail := sentence(err); detail != "" {
				page.Detail = detail
				return v.again("activateNot", page)
			}
			return err
		}
		return v.to(in.path() + "/close?done=activate")
	}
	return v.fail(http.StatusBadRequest, "badForm")
}

// endAccount deletes the account of a form whose sender gave its password.
func (s *Server) endAccount(v *visit, in signIn, page pages.Close) error {
	ctx, form := v.r.Context(), v.form
	var err error
	if !strings.EqualFold(strings.TrimSpace(form.Get("handle")), in.Handle) {
		return v.again("deleteHandle", page)
	}
	switch {
	case page.Mailed:
		err = s.useWord(ctx, in.DID, wordDelete, form.Get("word"))
	case page.Factor:
		var ok bool
		if ok, err = s.tryFactor(ctx, in.DID.String(), form.Get("word")); err == nil && !ok {
			return v.again("codeWrong", page)
		}
	}
	if alert := wordAlert(err); alert != "" {
		return v.again(alert, page)
	}
	if err != nil {
		return err
	}
	if err := s.delete(ctx, in.DID); err != nil {
		return err
	}
	if len(v.device.signIns) == 1 {
		http.SetCookie(v.w, s.deviceCookie("", -1))
	}
	return v.to(signInPath + "?done=deleted")
}
