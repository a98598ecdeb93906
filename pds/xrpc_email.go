package pds

import (
	"net/http"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds/scope"
)

func (s *Server) emailRoutes(m *xrpc.Mux) {
	small := xrpc.MaxBody(smallBody)
	m.Procedure("com.atproto.server.requestEmailConfirmation", s.requestEmailConfirmation, small)
	m.Procedure("com.atproto.server.confirmEmail", s.confirmEmail, small)
	m.Procedure("com.atproto.server.requestEmailUpdate", s.requestEmailUpdate, small)
	m.Procedure("com.atproto.server.updateEmail", s.updateEmail, small)
	m.Procedure("com.atproto.server.requestPasswordReset", s.requestPasswordReset, small)
	m.Procedure("com.atproto.server.resetPassword", s.resetPassword, small)
}

// manager is caller for what the account itself does with its password, or an app that was granted just that.
func (s *Server) manager(c *xrpc.Call, attr string) (*authority, error) {
	a, err := s.caller(c)
	if err != nil {
		return nil, err
	}
	if a.Kind == byAppPassword || a.Actor != a.Account.DID {
		return nil, xrpc.Errorf(http.StatusForbidden, "Forbidden", "only the account itself may do this")
	}
	return a, a.mayAccount(attr, scope.Manage)
}

func (s *Server) requestEmailConfirmation(c *xrpc.Call) (any, error) {
	a, err := s.manager(c, "email")
	if err != nil {
		return nil, err
	}
	return nil, s.sendWord(c.Context(), a.Account, wordConfirmEmail, letterConfirmEmail)
}

func (s *Server) confirmEmail(c *xrpc.Call) (any, error) {
	a, err := s.manager(c, "email")
	if err != nil {
		return nil, err
	}
	var in struct {
		Email string `json:"email"`
		Token string `json:"token"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	email, err := normalEmail(in.Email)
	if err != nil || a.Account.Email == nil || email != *a.Account.Email {
		return nil, refused("InvalidEmail", "this is not the account's e-mail address")
	}
	return nil, s.confirmAddress(c.Context(), a.Account.DID, email, in.Token, s.clock.Now())
}

// requestEmailUpdate sends a word only where the address was confirmed: there is nothing to ask at one that nobody may read.
func (s *Server) requestEmailUpdate(c *xrpc.Call) (any, error) {
	a, err := s.manager(c, "email")
	if err != nil {
		return nil, err
	}
	needed := a.Account.EmailConfirmed != nil
	if needed {
		if err := s.sendWord(c.Context(), a.Account, wordUpdateEmail, letterUpdateEmail); err != nil {
			return nil, err
		}
	}
	return struct {
		TokenRequired bool `json:"tokenRequired"`
	}{needed}, nil
}

func (s *Server) updateEmail(c *xrpc.Call) (any, error) {
	a, err := s.manager(c, "email")
	if err != nil {
		return nil, err
	}
	var in struct {
		Email string `json:"email"`
		Token string `json:"token"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	email, err := normalEmail(in.Email)
	if err != nil {
		return nil, err
	}
	// Each try tells whether another account has the address, so there are few.
	if err := s.limitAccount(c, limitMail, a.Account.DID, 1); err != nil {
		return nil, err
	}
	if a.Account.EmailConfirmed != nil {
		if in.Token == "" {
			return nil, refused("TokenRequired", "the code that was mailed to the present address is needed")
		}
		if err := s.useWord(c.Context(), a.Account.DID, wordUpdateEmail, in.Token); err != nil {
			return nil, err
		}
	}
	return nil, s.changeEmail(c.Context(), a.Account.DID, email)
}

func (s *Server) requestPasswordReset(c *xrpc.Call) (any, error) {
	var in struct {
		Email string `json:"email"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	email, err := normalEmail(in.Email)
	if err != nil {
		return nil, err
	}
	if err := s.limitAddress(c.W.Header(), s.ip(c.R), limitRequestPasswordReset, ""); err != nil {
		return nil, err
	}
	return nil, s.askReset(email)
}

func (s *Server) resetPassword(c *xrpc.Call) (any, error) {
	var in struct {
		Token    string `json:"token"`
		Password string `json:"password"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if err := s.limitAddress(c.W.Header(), s.ip(c.R), limitResetPassword, ""); err != nil {
		return nil, err
	}
	return nil, s.resetByWord(c.Context(), in.Token, in.Password, s.clock.Now())
}
