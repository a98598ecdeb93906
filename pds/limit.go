package pds

import (
	"container/list"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/xrpc"
)

// Rate allows Points uses in each Window, refilled evenly. Zero Points means no limit.
type Rate struct {
	Points int
	Window time.Duration
}

func (r Rate) validate(name string) error {
	if r.Points < 0 || (r.Points > 0 && r.Window <= 0) {
		return fmt.Errorf("%s: %d points in %s is no rate", name, r.Points, r.Window)
	}
	return nil
}

// limiterKeys bounds the memory of one limiter; the keys unused for longest are
// forgotten first. Forgetting only ever forgives.
const limiterKeys = 20_000

// limiter is one token bucket a key.
type limiter struct {
	rate  Rate
	clock clock.Clock

	mu    sync.Mutex // guards keys and order
	keys  map[string]*list.Element
	order *list.List // most recently used in front
}

type bucket struct {
	key  string
	left float64
	at   time.Time
}

func newLimiter(rate Rate, c clock.Clock) *limiter {
	return &limiter{rate: rate, clock: c, keys: map[string]*list.Element{}, order: list.New()}
}

// take uses one point of each key, in order; it answers with the refusal of the first
// key that has none left.
func (l *limiter) take(keys ...string) error {
	if l.rate.Points == 0 {
		return nil
	}
	now := l.clock.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		if !l.one(key, now) {
			return xrpc.Errorf(http.StatusTooManyRequests, "RateLimitExceeded", "too many requests: %d in %s are allowed", l.rate.Points, l.rate.Window).
				After(l.rate.Window / time.Duration(l.rate.Points))
		}
	}
	return nil
}

func (l *limiter) one(key string, now time.Time) bool {
	full := float64(l.rate.Points)
	el, ok := l.keys[key]
	if !ok {
		el = l.order.PushFront(&bucket{key: key, left: full, at: now})
		l.keys[key] = el
		if l.order.Len() > limiterKeys {
			oldest := l.order.Back()
			delete(l.keys, l.order.Remove(oldest).(*bucket).key)
		}
	}
	l.order.MoveToFront(el)
	b := el.Value.(*bucket)
	if passed := now.Sub(b.at); passed > 0 {
		b.left = min(full, b.left+full*passed.Seconds()/l.rate.Window.Seconds())
		b.at = now
	}
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// remoteIP is the client's address: the peer, or behind n trusted proxies the n-th
// address from the right of X-Forwarded-For. What a client writes further left is
// never believed. An IPv6 client is counted by its /64, which one household holds.
func remoteIP(r *http.Request, proxies int) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if proxies > 0 {
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		if i := len(hops) - proxies; i >= 0 {
			if ip := net.ParseIP(strings.TrimSpace(hops[i])); ip != nil {
				host = ip.String()
			}
		}
	}
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return ip.Mask(net.CIDRMask(64, 128)).String()
	}
	return host
}
