package pds

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" // the one hash that every authenticator app knows (RFC 6238); HMAC does not rest on its collisions
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
)

// A second factor is a secret that the owner's phone shares with this server. Its owner is an account, by DID, or an operator, by a name that
// is no DID. It counts from the moment its owner has given back one code of it. Ten recovery codes stand for a phone that is lost; each
// serves once.
//
// A code of six digits can be guessed, so whoever checks one takes a point of the owner's limit first.

const (
	totpStep      = 30 // seconds
	totpDigits    = 1_000_000
	totpSecretLen = 20 // bytes, as RFC 4226 recommends
	totpSetup     = 15 * time.Minute
	recoveryCount = 10
	recoveryBytes = 10 // 80 bits: nobody guesses that, so a plain hash keeps it
)

var (
	errFactorOn = errors.New("a second factor is on already")
	base32Plain = base32.StdEncoding.WithPadding(base32.NoPadding)
)

// totpCode is the code of one step (RFC 6238 with the defaults of every app: HMAC-SHA-1, six digits, thirty seconds).
func totpCode(secret []byte, step int64) string {
	mac := hmac.New(sha1.New, secret)
	_ = binary.Write(mac, binary.BigEndian, step) // a hash takes everything
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:])&0x7fffffff)%totpDigits)
}

// totpMatch finds the step of a code: this one, or the one before or after, for clocks that differ and people who type. All three are
// compared, whichever fits.
func totpMatch(secret []byte, code string, now time.Time) (step int64, ok bool) {
	current := now.Unix() / totpStep
	for s := current - 1; s <= current+1; s++ {
		if subtle.ConstantTimeCompare([]byte(totpCode(secret, s)), []byte(code)) == 1 {
			step, ok = s, true
		}
	}
	return step, ok
}

// totpURI is what an authenticator app reads from the QR code.
func totpURI(issuer, name string, secret []byte) string {
	q := url.Values{"secret": {base32Plain.EncodeToString(secret)}, "issuer": {issuer}, "algorithm": {"SHA1"}, "digits": {"6"}, "period": {"30"}}
	return "otpauth://totp/" + url.PathEscape(issuer) + ":" + url.PathEscape(name) + "?" + strings.ReplaceAll(q.Encode(), "+", "%20")
}

func totpLabel(owner string) string { return "totp " + owner }

// totpBegin makes a secret that its owner is to confirm. errFactorOn where one counts already.
func (s *Server) totpBegin(ctx context.Context, owner string) (secret []byte, err error) {
	secret = make([]byte, totpSecretLen)
	_, _ = rand.Read(secret) // never errs
	const keep = `
		insert into second_factor (owner, secret, created) values (@owner, @secret, @now)
		on conflict (owner) do update set secret = excluded.secret, created = excluded.created where second_factor.confirmed is null`
	tag, err := s.pool.Exec(ctx, keep, pgx.NamedArgs{"owner": owner, "secret": s.sealer.seal(totpLabel(owner), secret), "now": s.clock.Now()})
	if err != nil {
		return nil, fmt.Errorf("begin second factor of %s: %w", owner, err)
	}
	if tag.RowsAffected() == 0 {
		return nil, errFactorOn
	}
	return secret, nil
}

// totpSecret gives the owner's secret, nil where there is none. One that was not confirmed in time is none.
func (s *Server) totpSecret(ctx context.Context, owner string, confirmed bool) ([]byte, error) {
	const find = `
		select secret from second_factor
		where owner = @owner and (confirmed is not null) = @confirmed and (confirmed is not null or created > @oldest)`
	var sealed []byte
	err := s.pool.QueryRow(ctx, find, pgx.NamedArgs{
		"owner": owner, "confirmed": confirmed, "oldest": s.clock.Now().Add(-totpSetup),
	}).Scan(&sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find second factor of %s: %w", owner, err)
	}
	secret, err := s.sealer.open(totpLabel(owner), sealed)
	if err != nil {
		return nil, fmt.Errorf("second factor of %s: %w", owner, err)
	}
	return secret, nil
}

// totpOn tells whether the owner has a second factor that counts.
func (s *Server) totpOn(ctx context.Context, owner string) (on bool, err error) {
	const find = `select exists (select from second_factor where owner = $1 and confirmed is not null)`
	if err := s.pool.QueryRow(ctx, find, owner).Scan(&on); err != nil {
		return false, fmt.Errorf("find second factor of %s: %w", owner, err)
	}
	return on, nil
}

// totpConfirm turns the begun factor on if the code is its own, and gives the recovery codes: they are shown this once. No codes mean that
// the code was not right or that nothing was begun.
func (s *Server) totpConfirm(ctx context.Context, owner, code string) (recovery []string, err error) {
	secret, err := s.totpSecret(ctx, owner, false)
	if err != nil || secret == nil {
		return nil, err
	}
	now := s.clock.Now()
	step, ok := totpMatch(secret, plainCode(code), now)
	if !ok {
		return nil, nil
	}
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		const confirm = `update second_factor set confirmed = @now, step = @step where owner = @owner and confirmed is null`
		tag, err := tx.Exec(ctx, confirm, pgx.NamedArgs{"owner": owner, "now": now, "step": step})
		if err != nil {
			return fmt.Errorf("confirm second factor of %s: %w", owner, err)
		}
		if tag.RowsAffected() == 0 {
			return errFactorOn
		}
		recovery, err = newRecoveryCodes(ctx, tx, owner)
		return err
	})
	if err != nil {
		return nil, err
	}
	return recovery, nil
}

// totpRenew replaces the recovery codes.
func (s *Server) totpRenew(ctx context.Context, owner string) (recovery []string, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `select owner from second_factor where owner = $1 and confirmed is not null for update`, owner).Scan(&owner); err != nil {
			return fmt.Errorf("find second factor of %s: %w", owner, err)
		}
		recovery, err = newRecoveryCodes(ctx, tx, owner)
		return err
	})
	if err != nil {
		return nil, err
	}
	return recovery, nil
}

func newRecoveryCodes(ctx context.Context, tx pgx.Tx, owner string) (codes []string, err error) {
	if _, err := tx.Exec(ctx, `delete from recovery_code where owner = $1`, owner); err != nil {
		return nil, fmt.Errorf("replace recovery codes of %s: %w", owner, err)
	}
	var hashes [][]byte
	for range recoveryCount {
		code := randomID(recoveryBytes)
		codes = append(codes, code[:4]+"-"+code[4:8]+"-"+code[8:12]+"-"+code[12:])
		hashes = append(hashes, recoveryHash(owner, code))
	}
	const insert = `insert into recovery_code (owner, hash) select $1, unnest($2::bytea[])`
	if _, err := tx.Exec(ctx, insert, owner, hashes); err != nil {
		return nil, fmt.Errorf("keep recovery codes of %s: %w", owner, err)
	}
	return codes, nil
}

func recoveryHash(owner, code string) []byte {
	sum := sha256.Sum256([]byte(owner + "\x00" + code))
	return sum[:]
}

// plainCode takes what people type between the characters out.
func plainCode(code string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' || r == '\u00a0' {
			return -1
		}
		return r
	}, code))
}

// totpCheck takes a code of the owner's phone, or a recovery code. Either serves once: a code that was seen over somebody's shoulder is
// worth nothing, even within its thirty seconds. The caller has taken a point of the owner's limit.
func (s *Server) totpCheck(ctx context.Context, owner, code string) (bool, error) {
	code = plainCode(code)
	if len(code) == base32Plain.EncodedLen(recoveryBytes) {
		tag, err := s.pool.Exec(ctx, `delete from recovery_code where owner = $1 and hash = $2`, owner, recoveryHash(owner, code))
		if err != nil {
			return false, fmt.Errorf("use recovery code of %s: %w", owner, err)
		}
		return tag.RowsAffected() == 1, nil
	}
	secret, err := s.totpSecret(ctx, owner, true)
	if err != nil || secret == nil {
		return false, err
	}
	step, ok := totpMatch(secret, code, s.clock.Now())
	if !ok {
		return false, nil
	}
	// Whoever moves the step forward has used it: the same code given twice at once serves once.
	tag, err := s.pool.Exec(ctx, `update second_factor set step = $2 where owner = $1 and step < $2`, owner, step)
	if err != nil {
		return false, fmt.Errorf("use second factor of %s: %w", owner, err)
	}
	return tag.RowsAffected() == 1, nil
}

// totpLeft counts the recovery codes that are still good.
func (s *Server) totpLeft(ctx context.Context, owner string) (n int, err error) {
	if err := s.pool.QueryRow(ctx, `select count(*) from recovery_code where owner = $1`, owner).Scan(&n); err != nil {
		return 0, fmt.Errorf("count recovery codes of %s: %w", owner, err)
	}
	return n, nil
}

// totpRemove turns the second factor off.
func (s *Server) totpRemove(ctx context.Context, owner string) error {
	if _, err := s.pool.Exec(ctx, `delete from second_factor where owner = $1`, owner); err != nil {
		return fmt.Errorf("remove second factor of %s: %w", owner, err)
	}
	return nil
}
