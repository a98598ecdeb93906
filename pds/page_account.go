package pds

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/pds/pages"
)

// accountsPage leads to the one account that is signed in here, or lets the reader choose.
func (s *Server) accountsPage(v *visit) error {
	switch in := v.device.signIns; len(in) {
	case 0:
		return v.to(signInPath)
	case 1:
		if v.notice() == "" {
			return v.to(in[0].path())
		}
	}
	return v.show(http.StatusOK, "", pages.Accounts{Who: v.device.who("")})
}

// who lists the accounts of a device, but for one.
func (d *device) who(but string) []pages.Who {
	var out []pages.Who
	for _, in := range d.signIns {
		if in.DID.String() != but {
			out = append(out, in.who())
		}
	}
	return out
}

func (s *Server) accountPage(v *visit, in signIn) error {
	page := pages.Account{Who: in.who(), Status: in.Status, Others: v.device.who(in.DID.String())}
	for _, key := range []string{"apps", "app-passwords", "people", "devices", "password", "two-step", "handle", "email", "data", "close"} {
		page.Menu = append(page.Menu, pages.Item{Key: key, Path: in.path() + "/" + key})
	}
	return v.show(http.StatusOK, "", page)
}

func (s *Server) devicesPage(v *visit, in signIn) error {
	ctx := v.r.Context()
	list, err := s.devices(ctx, in.DID)
	if err != nil {
		return err
	}
	page := pages.Devices{Who: in.who()}
	for _, d := range list {
		page.Devices = append(page.Devices, pages.Device{ID: d.ID, Words: d.Words, Created: d.Created, Seen: d.Seen, Current: d.ID == in.ID})
	}
	const programs = `select count(*) from session where did = $1 and expires > $2`
	if err := s.pool.QueryRow(ctx, programs, in.DID, s.clock.Now()).Scan(&page.Programs); err != nil {
		return fmt.Errorf("count sessions of %s: %w", in.DID, err)
	}
	return v.show(http.StatusOK, "", page)
}

func (s *Server) devicesForm(v *visit, in signIn) error {
	ctx := v.r.Context()
	if v.form.Get("all") == "1" {
		if err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error { return endOthers(ctx, tx, in.DID, in.ID) }); err != nil {
			return err
		}
		return v.to(in.path() + "/devices?done=all")
	}
	if err := s.signOut(ctx, in.DID, v.form.Get("device")); err != nil {
		return err
	}
	return v.to(in.path() + "/devices?done=device")
}

func (s *Server) passwordPage(v *visit, in signIn) error {
	return v.show(http.StatusOK, "", pages.NewPassword{Who: in.who()})
}

func (s *Server) passwordForm(v *visit, in signIn) error {
	ctx, form, page := v.r.Context(), v.form, pages.NewPassword{Who: in.who()}
	if ok, err := s.proven(v, in); err != nil {
		return err
	} else if !ok {
		return v.again("passwordWrong", page)
	}
	switch fresh := form.Get("new"); {
	case checkPassword(fresh) != nil:
		return v.again("passwordShort", page)
	case fresh != form.Get("again"):
		return v.again("passwordTwo", page)
	}
	hash, err := s.passwords.Hash(ctx, form.Get("new"))
	if err != nil {
		return err
	}
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `update account set password = $2 where did = $1`, in.DID, hash); err != nil {
			return fmt.Errorf("set password of %s: %w", in.DID, err)
		}
		if form.Get("apps") == "1" {
			if err := endApps(ctx, tx, in.DID); err != nil {
				return err
			}
		}
		return endOthers(ctx, tx, in.DID, in.ID)
	})
	if err != nil {
		return err
	}
	return v.to(in.path() + "?done=password")
}

// proven tells whether the form carries the account's password: what cannot be undone asks for it again, so that a browser left open is not enough.
func (s *Server) proven(v *visit, in signIn) (bool, error) {
	acc, err := s.byPassword(v.r.Context(), s.ip(v.r), in.DID.String(), v.form.Get("password"))
	if refusalName(err) == "AuthenticationRequired" || errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return acc != nil, err
}
