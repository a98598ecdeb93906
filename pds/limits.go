package pds

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/xrpc"
)

// limitName names one of this server's limits, in its settings as in its answers.
type limitName string

// Limits by address: of a client's machine, or household.
const (
	limitAll                  limitName = "all"                  // every request but getRepo
	limitGetRepo              limitName = "getRepo"              // these apart: whoever crawls asks for many
	limitSignIn               limitName = "signIn"               // passwords tried, whoever's
	limitCreateSession        limitName = "createSession"        // by identifier and address
	limitCreateAccount        limitName = "createAccount"        //
	limitResetPassword        limitName = "resetPassword"        //
	limitDeleteAccount        limitName = "deleteAccount"        //
	limitRequestPasswordReset limitName = "requestPasswordReset" //
	limitOAuth                limitName = "oauth"                // what apps push, exchange, refresh and revoke
)

// Limits by account, which an operator may set for one account.
const (
	limitMail         limitName = "mail"         // codes sent, for each purpose
	limitUpdateHandle limitName = "updateHandle" //
	limitUploadBlob   limitName = "uploadBlob"   //
	limitCreateReport limitName = "createReport" //
	limitWrites       limitName = "writes"       // points; see writeCost
	limitWriteBytes   limitName = "writeBytes"   // of records created and put: repositories have no quota of their own
	limitSecondFactor limitName = "secondFactor" // codes tried for one owner, who may be an operator
)

var defaultLimits = map[limitName][]Rate{
	limitAll:                  {{3000, 5 * time.Minute}},
	limitGetRepo:              {{6000, 5 * time.Minute}},
	limitSignIn:               {{600, 5 * time.Minute}},
	limitCreateSession:        {{30, 5 * time.Minute}, {300, 24 * time.Hour}},
	limitCreateAccount:        {{100, 5 * time.Minute}},
	limitResetPassword:        {{50, 5 * time.Minute}},
	limitDeleteAccount:        {{50, 5 * time.Minute}},
	limitRequestPasswordReset: {{15, time.Hour}, {50, 24 * time.Hour}},
	limitOAuth:                {{1000, 5 * time.Minute}},
	limitMail:                 {{5, time.Hour}, {15, 24 * time.Hour}},
	limitUpdateHandle:         {{10, 5 * time.Minute}, {50, 24 * time.Hour}},
	limitUploadBlob:           {{1000, 24 * time.Hour}},
	limitCreateReport:         {{30, 5 * time.Minute}, {300, 24 * time.Hour}},
	limitWrites:               {{5000, time.Hour}, {35_000, 24 * time.Hour}},
	limitWriteBytes:           {{64 << 20, time.Hour}, {256 << 20, 24 * time.Hour}},
	limitSecondFactor:         {{10, 15 * time.Minute}, {50, 24 * time.Hour}}, // three codes of a million are good at once
}

// byAccount are the limits that an account may have other rates of.
var byAccount = []limitName{limitMail, limitUpdateHandle, limitUploadBlob, limitCreateReport, limitWrites, limitWriteBytes}

// writeCost is what one operation on a record costs of limitWrites.
func writeCost(changes []change) (points int) {
	for _, ch := range changes {
		switch ch.Intent {
		case toCreate:
			points += 3
		case toPut, toUpdate:
			points += 2
		case toDelete, toDrop:
			points++
		}
	}
	return points
}

// limitWrite takes what a write costs of both its limits.
func (s *Server) limitWrite(c *xrpc.Call, did syntax.DID, changes []change) error {
	if err := s.limitAccount(c, limitWrites, did, writeCost(changes)); err != nil {
		return err
	}
	bytes := 0
	for _, ch := range changes {
		if ch.Record != nil {
			bytes += len(ch.Record.CBOR)
		}
	}
	if bytes == 0 {
		return nil
	}
	return s.limitAccount(c, limitWriteBytes, did, bytes)
}

// Limits replaces the rates of the limits it names.
type Limits map[string][]Rate

// ParseLimits reads "NAME=POINTS/WINDOW" by comma; a plus joins several rates of one limit, as in "writes=5000/1h+35000/24h", and zero
// points lift it.
func ParseLimits(text string) (Limits, error) {
	out := Limits{}
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, list, ok := strings.Cut(item, "=")
		if !ok {
			return nil, fmt.Errorf("limit %q is not NAME=POINTS/WINDOW", item)
		}
		for one := range strings.SplitSeq(list, "+") {
			r, err := ParseRate(one)
			if err != nil {
				return nil, fmt.Errorf("limit %s: %w", name, err)
			}
			out[name] = append(out[name], r)
		}
	}
	return out, out.validate()
}

// ParseRate reads POINTS/WINDOW, such as 5000/1h.
func ParseRate(text string) (Rate, error) {
	points, window, ok := strings.Cut(text, "/")
	n, err := strconv.Atoi(points)
	if !ok || err != nil {
		return Rate{}, fmt.Errorf("rate %q is not POINTS/WINDOW, such as 5000/1h", text)
	}
	d, err := time.ParseDuration(window)
	if err != nil {
		return Rate{}, fmt.Errorf("rate %q: %w", text, err)
	}
	r := Rate{Points: n, Window: d}
	return r, r.validate("rate " + text)
}

func (l Limits) validate() error {
	for name, rates := range l {
		if _, ok := defaultLimits[limitName(name)]; !ok {
			return fmt.Errorf("there is no limit %q; there are %s", name, strings.Join(limitNames(), ", "))
		}
		for _, r := range rates {
			if err := r.validate("limit " + name); err != nil {
				return err
			}
		}
	}
	return nil
}

func limitNames() []string {
	var names []string
	for _, n := range slices.Sorted(maps.Keys(defaultLimits)) {
		names = append(names, string(n))
	}
	return names
}

// limits are a server's limits with what is used of them.
type limits struct {
	clock    clock.Clock
	spared   []netip.Prefix
	rates    map[limitName][]Rate
	limiters map[limitName]*limiter
	own      *ownRates
}

func newLimits(cfg Config, c clock.Clock) *limits {
	l := &limits{
		clock: c, spared: cfg.LimitSpared,
		rates: map[limitName][]Rate{}, limiters: map[limitName]*limiter{}, own: newOwnRates(),
	}
	for name, rates := range defaultLimits {
		if set, ok := cfg.Limits[string(name)]; ok {
			rates = set
		}
		factor := cfg.LimitFactor
		if name == limitSecondFactor {
			factor = 1 // it bounds guesses at one owner's code, however many people come from one machine
		}
		for _, r := range rates {
			l.rates[name] = append(l.rates[name], Rate{Points: r.Points * factor, Window: r.Window})
		}
		l.limiters[name] = newLimiter()
	}
	return l
}

// take uses points of the key's limit and says in the answer's header how many are left.
func (l *limits) take(h http.Header, name limitName, key string, rates []Rate, cost int) error {
	t, ok := l.limiters[name].take(key, rates, cost, l.clock.Now())
	if t.rate.Points == 0 {
		return nil // no limit
	}
	if h != nil {
		t.say(h, l.clock.Now())
	}
	if !ok {
		return xrpc.Errorf(http.StatusTooManyRequests, "RateLimitExceeded", "limit %s: %d in %s are allowed", name, t.rate.Points, t.rate.Window).
			With(map[string]any{"limit": string(name)}).After(t.wait)
	}
	return nil
}

// say writes the header of the limit that is nearest to its end of all that the request took.
func (t taken) say(h http.Header, now time.Time) {
	left, err := strconv.ParseFloat(h.Get("RateLimit-Remaining"), 64)
	of, err2 := strconv.ParseFloat(h.Get("RateLimit-Limit"), 64)
	if err == nil && err2 == nil && left*float64(t.rate.Points) < float64(t.left)*of {
		return
	}
	h.Set("RateLimit-Limit", strconv.Itoa(t.rate.Points))
	h.Set("RateLimit-Remaining", strconv.Itoa(t.left))
	h.Set("RateLimit-Reset", strconv.FormatInt(now.Add(t.full).Unix(), 10))
	h.Set("RateLimit-Policy", fmt.Sprintf("%d;w=%d", t.rate.Points, int(t.rate.Window.Seconds())))
}

// spares tells whether no limit by address holds for it.
func (l *limits) spares(ip string) bool {
	if len(l.spared) == 0 {
		return false
	}
	a, err := netip.ParseAddr(ip)
	return err == nil && slices.ContainsFunc(l.spared, func(p netip.Prefix) bool { return p.Contains(a) })
}

// ip is the address by which a request is counted.
func (s *Server) ip(r *http.Request) string { return remoteIP(r, s.cfg.TrustedProxies) }

// limitAddress takes one point of a limit by address, or by address and whatever more says.
func (s *Server) limitAddress(h http.Header, ip string, name limitName, more string) error {
	if s.limits.spares(ip) {
		return nil
	}
	return s.limits.take(h, name, ip+" "+more, s.limits.rates[name], 1)
}

// gate counts every request.
func (s *Server) gate(w http.ResponseWriter, r *http.Request) error {
	name := limitAll
	if r.URL.Path == "/xrpc/com.atproto.sync.getRepo" {
		name = limitGetRepo
	}
	return s.limitAddress(w.Header(), s.ip(r), name, "")
}

// limitAccount takes points of a limit by account.
func (s *Server) limitAccount(c *xrpc.Call, name limitName, did syntax.DID, cost int) error {
	return s.limitOwner(c.Context(), c.W.Header(), name, did, cost)
}

// limitOwner is limitAccount where no method was called; h may be nil.
func (s *Server) limitOwner(ctx context.Context, h http.Header, name limitName, did syntax.DID, cost int) error {
	rates, err := s.limits.own.of(ctx, s.pool, did, name, s.limits)
	if err != nil {
		return err
	}
	return s.limits.take(h, name, did.String(), rates, cost)
}
