package pds

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
)

// A device is a browser with a cookie. Each account that signs in there has a row of its own, found by the cookie's hash: signing out is
// deleting the row, and nobody who reads the table can make the cookie.

const (
	deviceIdle   = 14 * 24 * time.Hour // not seen for so long: signed out
	deviceLife   = 90 * 24 * time.Hour // signed out then, however often it is seen
	deviceGrain  = time.Hour
	maxOnOne     = 10
	secureCookie = "__Host-device"
	loopbackName = "device-"
	deviceBytes  = 32
)

var errDeviceFull = errors.New("too many accounts are signed in on one device")

// signIn is an account that is signed in on a device.
type signIn struct {
	ID      string // of the row
	DID     syntax.DID
	Handle  string
	Status  string
	Words   string
	Created time.Time
	Seen    time.Time
}

// device is the browser of a request.
type device struct {
	hash    []byte // nil: it brought no cookie
	signIns []signIn
}

func (d *device) of(did string) (signIn, bool) {
	for _, in := range d.signIns {
		if in.DID.String() == did {
			return in, true
		}
	}
	return signIn{}, false
}

// cookieName is bound to this very host where the browser has https to vouch for it.
func (s *Server) cookieName() string {
	if s.secure() {
		return secureCookie
	}
	_, port, _ := strings.Cut(s.netloc, ":") // cookies know no ports: two servers on one machine must not take each other's
	return loopbackName + port
}

func (s *Server) secure() bool { return strings.HasPrefix(s.cfg.PublicURL, "https:") }

const selectSignIns = `
	select d.id, d.did, a.handle, a.status, d.words, d.created, d.seen
	from device d join account a using (did) `

// deviceOf reads the request's cookie. A cookie that opens nothing is no error.
func (s *Server) deviceOf(r *http.Request) (*device, error) {
	c, err := r.Cookie(s.cookieName())
	if err != nil || len(c.Value) > 100 {
		return &device{}, nil
	}
	token, err := b64.DecodeString(c.Value)
	if err != nil || len(token) != deviceBytes {
		return &device{}, nil
	}
	ctx, now := r.Context(), s.clock.Now()
	sum := sha256.Sum256(token)
	d := &device{hash: sum[:]}
	const find = selectSignIns + `where d.hash = @hash and d.seen > @idle and d.created > @oldest and a.status <> 'takendown' order by d.created, d.did`
	rows, err := s.pool.Query(ctx, find, pgx.NamedArgs{"hash": d.hash, "idle": now.Add(-deviceIdle), "oldest": now.Add(-deviceLife)})
	if err != nil {
		return nil, fmt.Errorf("find device: %w", err)
	}
	if d.signIns, err = pgx.CollectRows(rows, pgx.RowToStructByPos[signIn]); err != nil {
		return nil, fmt.Errorf("find device: %w", err)
	}
	if len(d.signIns) == 0 {
		return &device{}, nil
	}
	hour := now.Truncate(deviceGrain)
	for _, in := range d.signIns {
		if in.Seen.Before(hour) {
			if _, err := s.pool.Exec(ctx, `update device set seen = $2 where hash = $1 and seen < $2`, d.hash, hour); err != nil {
				return nil, fmt.Errorf("note device: %w", err)
			}
			break
		}
	}
	return d, nil
}

// admit signs an account in on a device and gives the browser a new cookie: one that somebody else may have planted or kept opens nothing from here on.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, d *device, did syntax.DID) error {
	token := make([]byte, deviceBytes)
	_, _ = rand.Read(token) // never errs
	sum := sha256.Sum256(token)
	ctx, now := r.Context(), s.clock.Now()
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		if d.hash != nil {
			if _, err := tx.Exec(ctx, `delete from device where hash = $1 and did = $2`, d.hash, did); err != nil {
				return err
			}
			moved, err := tx.Exec(ctx, `update device set hash = $2 where hash = $1`, d.hash, sum[:])
			if err != nil {
				return err
			}
			if moved.RowsAffected() >= maxOnOne {
				return errDeviceFull
			}
		}
		const enter = `
			insert into device (id, hash, did, words, created, seen)
			values (@id, @hash, @did, @words, @now, @hour)`
		_, err := tx.Exec(ctx, enter, pgx.NamedArgs{
			"id": randomID(15), "hash": sum[:], "did": did, "words": browserWords(r.UserAgent()), "now": now, "hour": now.Truncate(deviceGrain),
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("sign in on a device: %w", err)
	}
	http.SetCookie(w, s.deviceCookie(b64.EncodeToString(token), int(deviceLife/time.Second)))
	return nil
}

func (s *Server) deviceCookie(value string, maxAge int) *http.Cookie {
	// Lax, not Strict: an application leads the browser here from elsewhere, and its owner should find herself signed in.
	return &http.Cookie{Name: s.cookieName(), Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: s.secure(), SameSite: http.SameSiteLaxMode}
}

// signOut removes one sign-in of an account.
func (s *Server) signOut(ctx context.Context, did syntax.DID, id string) error {
	if _, err := s.pool.Exec(ctx, `delete from device where did = $1 and id = $2`, did, id); err != nil {
		return fmt.Errorf("sign out %s: %w", did, err)
	}
	return nil
}

// devices lists where an account is signed in, the latest seen first.
func (s *Server) devices(ctx context.Context, did syntax.DID) ([]signIn, error) {
	now := s.clock.Now()
	const list = selectSignIns + `where d.did = @did and d.seen > @idle and d.created > @oldest order by d.seen desc, d.created desc, d.id limit 200`
	rows, err := s.pool.Query(ctx, list, pgx.NamedArgs{"did": did, "idle": now.Add(-deviceIdle), "oldest": now.Add(-deviceLife)})
	if err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", did, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[signIn])
	if err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", did, err)
	}
	return out, nil
}

// endOthers signs an account out everywhere but in one browser: other browsers, and programs that were given the password.
func endOthers(ctx context.Context, tx pgx.Tx, did syntax.DID, keep string) error {
	if _, err := tx.Exec(ctx, `delete from session where did = $1`, did); err != nil {
		return fmt.Errorf("end sessions of %s: %w", did, err)
	}
	if _, err := tx.Exec(ctx, `delete from device where did = $1 and id <> $2`, did, keep); err != nil {
		return fmt.Errorf("sign out %s: %w", did, err)
	}
	return nil
}

// endApps takes every app's way in: what was allowed on the consent page, also for an organization, and the passwords made for apps.
func endApps(ctx context.Context, tx pgx.Tx, did syntax.DID) error {
	if _, err := tx.Exec(ctx, `delete from app_password where did = $1`, did); err != nil {
		return fmt.Errorf("end app passwords of %s: %w", did, err)
	}
	return endGrants(ctx, tx, did)
}

// endGrants ends what apps were let in for by an account, for itself or for one that it acts for, and by others for it.
func endGrants(ctx context.Context, tx pgx.Tx, did syntax.DID) error {
	for _, table := range []string{"oauth_request", "oauth_session"} {
		if _, err := tx.Exec(ctx, `delete from `+table+` where did = $1 or actor = $1`, did); err != nil {
			return fmt.Errorf("end what is open in %s: %w", table, err)
		}
	}
	return nil
}

// dropDevices forgets browsers that have been signed out by time.
func (s *Server) dropDevices(ctx context.Context, now time.Time) error {
	const drop = `delete from device where seen <= $1 or created <= $2`
	if _, err := s.pool.Exec(ctx, drop, now.Add(-deviceIdle), now.Add(-deviceLife)); err != nil {
		return fmt.Errorf("drop old devices: %w", err)
	}
	return nil
}

// browserWords says in a few words what a User-Agent claims to be, so that a list of devices can be read. Only words of ours come out.
func browserWords(agent string) string {
	pick := func(list [][2]string) string {
		for _, p := range list {
			if strings.Contains(agent, p[0]) {
				return p[1]
			}
		}
		return ""
	}
	// Most browsers claim to be several others: the telling word first.
	browser := pick([][2]string{
		{"Edg", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser", "Samsung Internet"}, {"Vivaldi", "Vivaldi"}, {"FxiOS", "Firefox"}, {"Firefox/", "Firefox"},
		{"CriOS", "Chrome"}, {"Chrome/", "Chrome"}, {"Safari/", "Safari"},
	})
	system := pick([][2]string{
		{"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Android", "Android"}, {"Windows", "Windows"}, {"Mac OS X", "macOS"}, {"CrOS", "ChromeOS"}, {"Linux", "Linux"},
	})
	switch {
	case browser == "":
		return system
	case system == "":
		return browser
	}
	return browser + " · " + system
}
