package pds

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
)

const (
	announceEvery = 20 * time.Minute // between two requests to one relay that nobody pressed a button for
	relayLimit    = 10 * time.Second // of one question to a relay
	maxAnswer     = 300              // bytes of a relay's refusal that are kept
)

// hostname is this server's name as relays know it: with a port only where that is not the scheme's own.
func hostname(u *url.URL) string {
	if (u.Scheme == "https" && u.Port() == "443") || (u.Scheme == "http" && u.Port() == "80") {
		return u.Hostname()
	}
	return u.Host
}

func validateRelays(relays []string) error {
	for i, r := range relays {
		u, err := url.Parse(r)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("relay %q must be http(s)://HOST[:PORT] without a final slash", r)
		}
		if slices.Contains(relays[:i], r) {
			return fmt.Errorf("relay %q is named twice", r)
		}
	}
	return nil
}

// announceWrites asks the configured relays to read this host's stream whenever something was written, each at most once in announceEvery.
// A relay that is reading takes no notice; one that gave this host up comes back.
func (s *Server) announceWrites(ctx context.Context) error {
	if len(s.cfg.Relays) == 0 {
		return nil
	}
	var due time.Time // until then no relay is to be asked
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.written.c:
		}
		now := s.clock.Now()
		if now.Before(due) {
			continue
		}
		due = now.Add(announceEvery)
		for _, relay := range s.cfg.Relays {
			asked, mine, err := s.claimRelay(ctx, relay, now)
			switch {
			case err != nil && ctx.Err() == nil:
				s.log.Error("relay not announced to", "relay", relay, "error", err)
			case mine:
				_ = s.ask(ctx, relay) // told where it is kept; the next time comes
			case asked.Add(announceEvery).Before(due):
				due = asked.Add(announceEvery)
			}
		}
	}
}

// claimRelay decides which of the processes of one database asks a relay. It tells when the relay was asked last.
func (s *Server) claimRelay(ctx context.Context, relay string, now time.Time) (asked time.Time, mine bool, err error) {
	const claim = `
		insert into relay as r (url, asked) values ($1, $2)
		on conflict (url) do update set asked = excluded.asked where r.asked <= $3`
	tag, err := s.pool.Exec(ctx, claim, relay, now, now.Add(-announceEvery))
	if err != nil {
		return now, false, fmt.Errorf("claim relay %s: %w", relay, err)
	}
	if tag.RowsAffected() == 1 {
		return now, true, nil
	}
	if err := s.pool.QueryRow(ctx, `select asked from relay where url = $1`, relay).Scan(&asked); err != nil {
		return now, false, fmt.Errorf("claim relay %s: %w", relay, err)
	}
	return asked, false, nil
}

// announceTo asks one configured relay now, however long ago it was asked.
func (s *Server) announceTo(ctx context.Context, relay string) error {
	if !slices.Contains(s.cfg.Relays, relay) {
		return invalid("%q is no relay of this server", relay)
	}
	const note = `insert into relay (url, asked) values ($1, $2) on conflict (url) do update set asked = excluded.asked`
	if _, err := s.pool.Exec(ctx, note, relay, s.clock.Now()); err != nil {
		return fmt.Errorf("announce to %s: %w", relay, err)
	}
	return s.ask(ctx, relay)
}

// ask requests a crawl and keeps the answer for whoever looks.
func (s *Server) ask(ctx context.Context, relay string) error {
	asking, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	client := &xrpc.Client{Base: relay, HTTP: s.http}
	err := client.Procedure(asking, "com.atproto.sync.requestCrawl", map[string]string{"hostname": s.hostname}, nil)
	answer := ""
	if err != nil {
		answer = relayError(err)
		s.log.Warn("relay refused to read this host", "relay", relay, "error", answer)
	}
	if _, kept := s.pool.Exec(ctx, `update relay set answer = $2 where url = $1`, relay, answer); kept != nil {
		return errors.Join(err, fmt.Errorf("keep answer of %s: %w", relay, kept))
	}
	return err
}

func relayError(err error) string {
	text := strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\x00", ""), "")
	if len(text) > maxAnswer {
		text = strings.ToValidUTF8(text[:maxAnswer], "")
	}
	return text
}

// relayView is what an operator sees of one relay.
type relayView struct {
	URL    string
	Asked  time.Time // zero: never
	Answer string    // of the last request; empty when it was taken
	Ours   int64     // the last number this server gave out

	Known    bool // the relay has heard of this host
	Status   string
	Seq      int64 // the last number the relay has read
	Accounts int64
	Error    string // why the relay could not be asked for these
}

// Behind is how many events the relay has still to read.
func (v relayView) Behind() int64 { return max(0, v.Ours-v.Seq) }

// Ahead says that the relay has read numbers that this server never gave out: a backup was restored without raising them. The relay
// passes nothing on until our numbers are above its own.
func (v relayView) Ahead() bool { return v.Seq > v.Ours }

// relayViews asks every configured relay what it knows of this host, all at once.
func (s *Server) relayViews(ctx context.Context) ([]relayView, error) {
	views := make([]relayView, len(s.cfg.Relays))
	var ours int64
	if err := s.pool.QueryRow(ctx, `select seq from event_head`).Scan(&ours); err != nil {
		return nil, fmt.Errorf("relays: %w", err)
	}
	for i, relay := range s.cfg.Relays {
		v := &views[i]
		v.URL, v.Ours = relay, ours
		err := s.pool.QueryRow(ctx, `select asked, answer from relay where url = $1`, relay).Scan(&v.Asked, &v.Answer)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, fmt.Errorf("relays: %w", err)
		}
	}
	asking, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	var wg sync.WaitGroup
	for i := range views {
		wg.Go(func() { s.askStatus(asking, &views[i]) })
	}
	wg.Wait()
	return views, nil
}

func (s *Server) askStatus(ctx context.Context, v *relayView) {
	var out struct {
		Seq      int64  `json:"seq"`
		Accounts int64  `json:"accountCount"`
		Status   string `json:"status"`
	}
	client := &xrpc.Client{Base: v.URL, HTTP: s.http}
	err := client.Query(ctx, "com.atproto.sync.getHostStatus", url.Values{"hostname": {s.hostname}}, &out)
	var refusal *xrpc.Error
	switch {
	case err == nil:
		v.Known, v.Seq, v.Accounts, v.Status = true, max(0, out.Seq), out.Accounts, relayWord(out.Status)
	case errors.As(err, &refusal) && refusal.Name == "HostNotFound":
	default:
		v.Error = relayError(err)
	}
}

// relayWord passes the words of the protocol on and none of a stranger's own.
func relayWord(status string) string {
	if slices.Contains([]string{"active", "idle", "offline", "throttled", "banned"}, status) {
		return status
	}
	return "unknown"
}
