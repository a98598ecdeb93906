package pds

import (
	"container/list"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
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

// limiter is a token bucket for each key and rate. Servers that share a database count apart.
type limiter struct {
	mu    sync.Mutex // guards keys and order
	keys  map[string]*list.Element
	order *list.List // most recently used in front
}

// meter is what one key has left of each of its rates.
type meter struct {
	key   string
	rates []Rate
	left  []float64
	at    time.Time
}

// taken is what an answer says of a limit: the rate nearest to its end.
type taken struct {
	rate Rate
	left int
	full time.Duration // until all points are back
	wait time.Duration // until a refused use would do; 0: it was not refused
}

func newLimiter() *limiter {
	return &limiter{keys: map[string]*list.Element{}, order: list.New()}
}

// take uses points of every rate of the key, or of none. A use that costs more than a rate holds passes when that rate is whole, and the
// key then owes the rest: otherwise it would never pass.
func (l *limiter) take(key string, rates []Rate, cost int, now time.Time) (taken, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.meter(key, rates, now)
	for i, r := range m.rates {
		if r.Points == 0 {
			continue
		}
		need := math.Min(float64(cost), float64(r.Points))
		if m.left[i]+1e-9 < need {
			t := m.state(i)
			t.wait = r.refill(need - m.left[i])
			return t, false
		}
	}
	worst := taken{left: math.MaxInt}
	for i, r := range m.rates {
		if r.Points == 0 {
			continue
		}
		m.left[i] -= float64(cost)
		if t := m.state(i); t.left < worst.left {
			worst = t
		}
	}
	return worst, true
}

func (r Rate) refill(points float64) time.Duration {
	return time.Duration(points / float64(r.Points) * float64(r.Window))
}

func (m *meter) state(i int) taken {
	r := m.rates[i]
	return taken{rate: r, left: int(math.Max(0, m.left[i]+1e-9)), full: r.refill(float64(r.Points) - m.left[i])}
}

// meter brings the key's meter up to now. Rates that were changed begin anew.
func (l *limiter) meter(key string, rates []Rate, now time.Time) *meter {
	if el, ok := l.keys[key]; ok {
		l.order.MoveToFront(el)
		m := el.Value.(*meter)
		if slices.Equal(m.rates, rates) {
			m.refill(now)
			return m
		}
		*m = *newMeter(key, rates, now)
		return m
	}
	m := newMeter(key, rates, now)
	l.keys[key] = l.order.PushFront(m)
	if l.order.Len() > limiterKeys {
		delete(l.keys, l.order.Remove(l.order.Back()).(*meter).key)
	}
	return m
}

func newMeter(key string, rates []Rate, now time.Time) *meter {
	m := &meter{key: key, rates: rates, left: make([]float64, len(rates)), at: now}
	for i, r := range rates {
		m.left[i] = float64(r.Points)
	}
	return m
}

func (m *meter) refill(now time.Time) {
	passed := now.Sub(m.at)
	if passed <= 0 {
		return
	}
	m.at = now
	for i, r := range m.rates {
		if r.Points > 0 {
			full := float64(r.Points)
			m.left[i] = math.Min(full, m.left[i]+full*passed.Seconds()/r.Window.Seconds())
		}
	}
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
