package pds

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/pds/pages"
)

// An operator's browser is signed in for a working day, by a password and a second factor, always both. Its cookie goes with no request that
// another site caused.

const (
	operatorDay          = 10 * time.Hour
	operatorSecureCookie = "__Host-operator"
	operatorLoopback     = "operator"
	operatorTicketLabel  = "operator ticket"
)

func (s *Server) operatorCookieName() string {
	if s.secure() {
		return operatorSecureCookie
	}
	return operatorLoopback
}

func (s *Server) operatorCookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: s.operatorCookieName(), Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: s.secure(), SameSite: http.SameSiteStrictMode,
	}
}

// operatorOn answers with who is signed in on the browser of a request, nil for nobody.
func (s *Server) operatorOn(r *http.Request) (*Operator, error) {
	c, err := r.Cookie(s.operatorCookieName())
	if err != nil || len(c.Value) > 100 {
		return nil, nil
	}
	const find = `
		select o.name, o.role, o.created, o.disabled from operator_device d join operator o on o.name = d.operator
		where d.hash = $1 and d.expires > $2 and o.disabled is null`
	rows, err := s.pool.Query(r.Context(), find, tokenHash(c.Value), s.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("find operator's browser: %w", err)
	}
	op, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[Operator])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find operator's browser: %w", err)
	}
	return op, nil
}

func (s *Server) admitOperator(ctx context.Context, w http.ResponseWriter, name string) error {
	token := make([]byte, deviceBytes)
	_, _ = rand.Read(token) // never errs
	value := b64.EncodeToString(token)
	now := s.clock.Now()
	const enter = `
		insert into operator_device (hash, operator, created, expires)
		select $1, name, $3, $4 from operator where name = $2 and disabled is null`
	tag, err := s.pool.Exec(ctx, enter, tokenHash(value), name, now, now.Add(operatorDay))
	if err != nil {
		return fmt.Errorf("sign operator in: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil // shut out meanwhile: the next page asks to sign in
	}
	http.SetCookie(w, s.operatorCookie(value, int(operatorDay/time.Second)))
	return nil
}

// enterOperator is admitOperator for a sign-in, which is written down as all that follows it.
func (s *Server) enterOperator(v *visit, name string) error {
	return v.operate(&Operator{Name: name}, "signIn", "", "", func(ctx context.Context) error { return s.admitOperator(ctx, v.w, name) })
}

func (s *Server) dismissOperator(w http.ResponseWriter, r *http.Request) error {
	c, err := r.Cookie(s.operatorCookieName())
	if err != nil {
		return nil
	}
	http.SetCookie(w, s.operatorCookie("", -1))
	if _, err := s.pool.Exec(r.Context(), `delete from operator_device where hash = $1`, tokenHash(c.Value)); err != nil {
		return fmt.Errorf("sign operator out: %w", err)
	}
	return nil
}

// tryOperator is operatorByPassword for a form, within what one address may try, of all names and of one.
func (s *Server) tryOperator(v *visit, name string) (stored string, ok bool, err error) {
	if !operatorName.MatchString(name) {
		name = ""
	}
	ip := s.ip(v.r)
	if err := s.limitAddress(v.w.Header(), ip, limitSignIn, ""); err != nil {
		return "", false, err
	}
	if err := s.limitAddress(v.w.Header(), ip, limitCreateSession, "operator "+name); err != nil {
		return "", false, err
	}
	return s.operatorByPassword(v.r.Context(), name, v.form.Get("password"))
}

// operatorByPassword answers nil for a wrong name or password. An unknown name costs the same work.
func (s *Server) operatorByPassword(ctx context.Context, name, password string) (stored string, ok bool, err error) {
	err = s.pool.QueryRow(ctx, `select password from operator where name = $1 and disabled is null`, name).Scan(&stored)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", false, fmt.Errorf("find operator: %w", err)
	}
	ok, err = s.passwords.Matches(ctx, stored, password)
	return stored, ok, err
}

// operatorTicket stands for the half of a sign-in that is done; see ticket.
type operatorTicket struct {
	Name     string    `json:"name"`
	Until    time.Time `json:"until"`
	Password []byte    `json:"password"`
}

func (s *Server) operatorTicketFor(name, stored string) (string, error) {
	raw, err := json.Marshal(operatorTicket{Name: name, Until: s.clock.Now().Add(ticketLife), Password: tokenHash(stored)[:8]})
	if err != nil {
		return "", fmt.Errorf("make operator's ticket: %w", err)
	}
	return b64.EncodeToString(s.sealer.seal(operatorTicketLabel, raw)), nil
}

// readOperatorTicket answers with no name for one that is over, altered or of another password.
func (s *Server) readOperatorTicket(ctx context.Context, text string) (name string, err error) {
	sealed, err := b64.DecodeString(text)
	if err != nil {
		return "", nil
	}
	raw, err := s.sealer.open(operatorTicketLabel, sealed)
	if err != nil {
		return "", nil
	}
	var t operatorTicket
	if err := json.Unmarshal(raw, &t); err != nil || !s.clock.Now().Before(t.Until) {
		return "", nil
	}
	var stored string
	err = s.pool.QueryRow(ctx, `select password from operator where name = $1 and disabled is null`, t.Name).Scan(&stored)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find operator: %w", err)
	}
	if subtle.ConstantTimeCompare(tokenHash(stored)[:8], t.Password) != 1 {
		return "", nil
	}
	return t.Name, nil
}

func (s *Server) adminPasswordPage(v *visit, op *Operator) error {
	return v.show(http.StatusOK, "", pages.AdminPassword{Operator: op.Name})
}

// adminPasswordForm gives an operator another password; other browsers are signed out.
func (s *Server) adminPasswordForm(v *visit, op *Operator) error {
	ctx, form := v.r.Context(), v.form
	page := pages.AdminPassword{Operator: op.Name}
	_, ok, err := s.tryOperator(v, op.Name)
	if err != nil {
		return err
	}
	fresh := form.Get("new")
	switch {
	case !ok:
		return v.again("passwordWrong", page)
	case len(fresh) < operatorPasswordMin || len(fresh) > passwordMax:
		return v.again("adminPasswordShort", page)
	case fresh != form.Get("again"):
		return v.again("passwordTwo", page)
	}
	hash, err := s.passwords.Hash(ctx, fresh)
	if err != nil {
		return err
	}
	return v.operate(op, "password", "", "", func(ctx context.Context) error {
		err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `update operator set password = $2 where name = $1`, op.Name, hash); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `delete from operator_device where operator = $1`, op.Name)
			return err
		})
		if err != nil {
			return fmt.Errorf("set password of operator %s: %w", op.Name, err)
		}
		if err := s.admitOperator(ctx, v.w, op.Name); err != nil {
			return err
		}
		return v.to(adminPath + "?done=password")
	})
}

// operatorPasswordMin is more than an account's: an operator's opens all of them.
const operatorPasswordMin = 12
