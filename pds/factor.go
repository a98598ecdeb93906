package pds

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
)

const (
	ticketLife  = 10 * time.Minute
	ticketLabel = "sign-in ticket"
)

// limitFactor takes a point of the codes that may be tried for one owner, from wherever.
func (s *Server) limitFactor(owner string) error {
	return s.limits.take(nil, limitSecondFactor, owner, s.limits.rates[limitSecondFactor], 1)
}

// tryFactor is totpCheck within the owner's limit.
func (s *Server) tryFactor(ctx context.Context, owner, code string) (bool, error) {
	if err := s.limitFactor(owner); err != nil {
		return false, err
	}
	return s.totpCheck(ctx, owner, code)
}

// needFactor asks for the account's second factor, where it has one, in a method whose password was right.
func (s *Server) needFactor(ctx context.Context, did syntax.DID, code string) error {
	on, err := s.totpOn(ctx, did.String())
	if err != nil || !on {
		return err
	}
	if code == "" {
		return xrpc.Errorf(401, "AuthFactorTokenRequired", "this account asks for a code of its authenticator app as well")
	}
	ok, err := s.tryFactor(ctx, did.String(), code)
	if err != nil {
		return err
	}
	if !ok {
		return xrpc.Errorf(401, "AuthFactorTokenRequired", "the code is not right, or was used already")
	}
	return nil
}

// ticket stands for the half of a sign-in that is done: the password was right. It goes through the browser, sealed, and a new password
// makes it worthless.
type ticket struct {
	DID      syntax.DID `json:"did"`
	Until    time.Time  `json:"until"`
	Password []byte     `json:"password"` // digest of the stored hash
}

func passwordMark(acc *account) []byte {
	sum := sha256.Sum256([]byte(acc.Password))
	return sum[:8]
}

func (s *Server) ticketFor(acc *account) (string, error) {
	raw, err := json.Marshal(ticket{DID: acc.DID, Until: s.clock.Now().Add(ticketLife), Password: passwordMark(acc)})
	if err != nil {
		return "", fmt.Errorf("make sign-in ticket: %w", err)
	}
	return b64.EncodeToString(s.sealer.seal(ticketLabel, raw)), nil
}

// readTicket answers nil for one that is over, altered or of another password.
func (s *Server) readTicket(ctx context.Context, text string) (*account, error) {
	sealed, err := b64.DecodeString(text)
	if err != nil {
		return nil, nil
	}
	raw, err := s.sealer.open(ticketLabel, sealed)
	if err != nil {
		return nil, nil
	}
	var t ticket
	if err := json.Unmarshal(raw, &t); err != nil || !s.clock.Now().Before(t.Until) {
		return nil, nil
	}
	acc, err := s.findAccount(ctx, t.DID.String())
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil // deleted meanwhile
	}
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(passwordMark(acc), t.Password) != 1 || acc.Status == statusTakendown {
		return nil, nil
	}
	return acc, nil
}
