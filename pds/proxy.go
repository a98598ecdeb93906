package pds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	indigo "github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/internal/xrpc"
)

// A method that is not served here is carried to the service that the client names, in the client's name: with a service token of the account
// instead of the session, and with nothing of the request that is not on a list. So a client speaks to one host, and reaches every service.

const (
	proxyHeader    = "Atproto-Proxy"
	proxyMaxAnswer = 10 << 20 // bytes, unpacked
	proxyMaxBody   = 1_000_000
	proxyHead      = 64 << 10
	proxyStall     = 20 * time.Second // without a byte either way
	proxyWhole     = 2 * time.Minute
	proxyAtOnce    = 256 // of all accounts; the methods of this server keep the other slots
	proxyAccount   = 32  // of one account: whoever names a service that never answers holds no other's slots
)

// Headers that pass. All others stay here: a session, a cookie or an address is nobody else's business, and an answer sets nothing on this
// host but what it says of itself.
var (
	proxyAsk    = []string{"Accept-Language", "Atproto-Accept-Labelers", "X-Bsky-Topics"}
	proxyAnswer = []string{"Content-Type", "Content-Language", "Atproto-Repo-Rev", "Atproto-Content-Labelers", "Retry-After"}
)

const proxyAskPrefix = "X-Atproto-"

// proxy carries requests. Its fields are not changed once it serves.
type proxy struct {
	client *http.Client
	stall  time.Duration
	whole  time.Duration
	slots  *slots
	count  *prometheus.CounterVec

	mu    sync.Mutex
	asked map[syntax.DID]time.Time // guarded by mu: when a document was last read anew for a service that it did not name
}

func newProxy(client *http.Client, r prometheus.Registerer) (*proxy, error) {
	p := &proxy{
		// A redirect is not followed: the token is for the service that was named. The limits in time are the proxy's own.
		client: &http.Client{Transport: client.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		stall:  proxyStall, whole: proxyWhole, slots: newSlots(proxyAtOnce, proxyAccount), asked: map[syntax.DID]time.Time{},
		count: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "pds", Name: "proxied_total", Help: "Calls carried to other services, by outcome: answered, refused (by the service) or failed.",
		}, []string{"outcome"}),
	}
	return p, r.Register(p.count)
}

// serviceRef names a service: a DID and the fragment of its entry in the DID's document.
type serviceRef struct {
	DID      syntax.DID
	Fragment string
}

func (r serviceRef) String() string { return r.DID.String() + "#" + r.Fragment }

func parseServiceRef(raw string) (serviceRef, error) {
	did, fragment, _ := strings.Cut(raw, "#")
	parsed, err := syntax.ParseDID(did)
	odd := func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }
	if err != nil || fragment == "" || len(fragment) > 128 || strings.ContainsFunc(fragment, odd) {
		return serviceRef{}, fmt.Errorf("%q is no DID#service", raw)
	}
	return serviceRef{DID: parsed, Fragment: fragment}, nil
}

func (c Config) validateAppView() error {
	if c.AppView == "" && c.AppViewURL == "" {
		return nil
	}
	if _, err := parseServiceRef(c.AppView); err != nil {
		return fmt.Errorf("AppView: %w", err)
	}
	if c.AppViewURL == "" {
		return nil
	}
	u, err := url.Parse(c.AppViewURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("AppView URL %q must be http(s)://HOST[:PORT] without a final slash", c.AppViewURL)
	}
	if own, err := url.Parse(c.PublicURL); err == nil && sameHost(u, own) {
		return errors.New("the AppView URL is this server's own")
	}
	return nil
}

// target is the service that a request is for, nil where it names none and none is set.
func (s *Server) target(r *http.Request) (*serviceRef, error) {
	named := r.Header.Values(proxyHeader)
	switch {
	case len(named) > 1:
		return nil, invalid("%s may stand only once", proxyHeader)
	case len(named) == 0 && s.cfg.AppView == "":
		return nil, nil
	case len(named) == 0:
		named = []string{s.cfg.AppView}
	}
	ref, err := parseServiceRef(named[0])
	if err != nil {
		return nil, invalid("%s: %v", proxyHeader, err)
	}
	return &ref, nil
}

// carry answers every method that is not served here.
func (s *Server) carry(c *xrpc.Call) (any, error) {
	to, err := s.target(c.R)
	if err != nil {
		return nil, err
	}
	if to == nil {
		return nil, xrpc.Errorf(http.StatusNotImplemented, xrpc.NameNotImplemented, "%s is not served here, and no service was named in %s", c.NSID, proxyHeader)
	}
	if isProtected(c.NSID) {
		return nil, refused("InvalidToken", "%s is between an account and its own server", c.NSID)
	}
	a, err := s.caller(c)
	if err != nil {
		return nil, err
	}
	if a.Kind == byService {
		return nil, xrpc.Errorf(http.StatusForbidden, "Forbidden", "a call made by another server's account is not passed on")
	}
	if err := a.Account.mustBeActive(); err != nil {
		return nil, err
	}
	if err := a.mayCall(c.NSID, to.String()); err != nil {
		return nil, err
	}
	if err := s.logAct(c.Context(), a, "call", c.NSID+" "+to.String(), nil); err != nil {
		return nil, err
	}
	return s.carryTo(c, *to, a.Account)
}

// elsewhere reads a record of an account that is not hosted here from the AppView, in nobody's name, as a client expects of its server. Only the
// operator's AppView is asked: anybody can ask us.
func (s *Server) elsewhere(c *xrpc.Call) (any, error) {
	if s.cfg.AppView == "" {
		return nil, errRepoNotFound(c.Param("repo"))
	}
	ref, err := parseServiceRef(s.cfg.AppView)
	if err != nil {
		return nil, err
	}
	out, err := s.carryTo(c, ref, nil)
	var own *xrpc.Error
	if errors.As(err, &own) && own.Status != http.StatusBadRequest { // it knows no more than we do
		return nil, errRepoNotFound(c.Param("repo"))
	}
	return out, err
}

// carryTo makes the call and passes its answer on. With no account it is made in nobody's name.
func (s *Server) carryTo(c *xrpc.Call, to serviceRef, acc *account) (any, error) {
	var who syntax.DID
	if acc != nil {
		who = acc.DID
	}
	leave, err := s.proxy.slots.enter(who.String())
	if err != nil {
		return nil, err
	}
	defer leave()
	base, err := s.endpoint(c.Context(), to)
	if err != nil {
		return nil, err
	}
	ctx, done := s.proxy.deadline(c.Context())
	defer done.stop(nil)
	req, body, err := s.outgoing(ctx, c, base, done)
	if err != nil {
		return nil, err
	}
	defer body.end() // the transport may read on after it gave up, and this request's body must not be read then
	if acc != nil {
		key, err := s.signingKey(acc)
		if err != nil {
			return nil, err
		}
		aud := to.DID.String()
		if s.cfg.ServiceAudience {
			aud = to.String()
		}
		tok, err := xrpc.SignServiceToken(key, acc.DID.String(), aud, c.NSID, s.clock.Now(), serviceTokenLife)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+tok)
	}
	resp, err := s.proxy.client.Do(req)
	if err != nil {
		return nil, s.proxy.failed(ctx, err)
	}
	defer resp.Body.Close()
	return s.proxy.pass(ctx, c, resp, done)
}

// endpoint is where a service is, as its DID document says or as the operator set it.
func (s *Server) endpoint(ctx context.Context, to serviceRef) (*url.URL, error) {
	if s.cfg.AppViewURL != "" && to.String() == s.cfg.AppView {
		return url.Parse(s.cfg.AppViewURL)
	}
	if to.DID == s.cfg.ServiceDID {
		return nil, errOwnService(to)
	}
	u, err := s.declared(ctx, to)
	if err != nil {
		return nil, err
	}
	if u == nil && s.proxy.mayAskAnew(to.DID, s.clock.Now()) { // the document may have got it since it was read
		if err := s.directory.Purge(ctx, to.DID.AtIdentifier()); err != nil {
			return nil, fmt.Errorf("purge identity %s: %w", to.DID, err)
		}
		if u, err = s.declared(ctx, to); err != nil {
			return nil, err
		}
	}
	if u == nil {
		return nil, invalid("%s has no service %s", to.DID, to.Fragment)
	}
	if own, err := url.Parse(s.cfg.PublicURL); err != nil || sameHost(u, own) {
		return nil, errOwnService(to)
	}
	return u, nil
}

// declared is where a service's DID document says it is; nil where it says nothing that can be used.
func (s *Server) declared(ctx context.Context, to serviceRef) (*url.URL, error) {
	ident, err := s.directory.LookupDID(ctx, to.DID)
	if errors.Is(err, indigo.ErrDIDNotFound) {
		return nil, invalid("%s does not exist", to.DID)
	}
	if err != nil {
		return nil, upstreamFailure("the DID document of %s cannot be read now", to.DID)
	}
	u, err := url.Parse(ident.GetServiceEndpoint(to.Fragment))
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		return nil, nil
	}
	return u, nil
}

const (
	askAnewEvery = 5 * time.Second // of one DID, however many calls name a service that it has not
	maxAskedAnew = 4096
)

func (p *proxy) mayAskAnew(did syntax.DID, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.asked[did]; ok && now.Sub(last) < askAnewEvery && now.Sub(last) >= 0 {
		return false
	}
	if len(p.asked) >= maxAskedAnew {
		clear(p.asked)
	}
	p.asked[did] = now
	return true
}

func errOwnService(to serviceRef) error {
	return invalid("%s is this server, which does not serve the method", to)
}

func sameHost(a, b *url.URL) bool {
	port := func(u *url.URL) string {
		if p := u.Port(); p != "" {
			return p
		}
		if u.Scheme == "http" {
			return "80"
		}
		return "443"
	}
	return strings.EqualFold(strings.TrimSuffix(a.Hostname(), "."), strings.TrimSuffix(b.Hostname(), ".")) && port(a) == port(b)
}

func upstreamFailure(format string, a ...any) error {
	return xrpc.Errorf(http.StatusBadGateway, xrpc.NameUpstreamFailure, format, a...)
}

var errStalled = errors.New("the service is too slow")

// progress ends a call that stands still.
type progress struct {
	timer *time.Timer
	stall time.Duration
	stop  context.CancelCauseFunc
}

func (p *progress) moved() { p.timer.Reset(p.stall) }

func (p *proxy) deadline(ctx context.Context) (context.Context, *progress) {
	ctx, end := context.WithTimeoutCause(ctx, p.whole, errStalled)
	ctx, stop := context.WithCancelCause(ctx)
	timer := time.AfterFunc(p.stall, func() { stop(errStalled) })
	return ctx, &progress{timer: timer, stall: p.stall, stop: func(cause error) {
		timer.Stop()
		stop(cause)
		end()
	}}
}

// outgoing makes the request that leaves, without its token.
func (s *Server) outgoing(ctx context.Context, c *xrpc.Call, base *url.URL, done *progress) (*http.Request, *carriedBody, error) {
	u := *base
	u.Path, u.RawQuery = "/xrpc/"+c.NSID, c.R.URL.RawQuery
	body := &carriedBody{from: c.R.Body, done: done}
	var reader io.Reader
	if c.R.Method == http.MethodPost && c.R.ContentLength != 0 {
		reader = body
	}
	req, err := http.NewRequestWithContext(ctx, c.R.Method, u.String(), reader)
	if err != nil {
		return nil, nil, invalid("the request cannot be passed on")
	}
	for _, name := range proxyAsk {
		copyHeader(req.Header, c.R.Header, name)
	}
	for name := range c.R.Header {
		if strings.HasPrefix(name, proxyAskPrefix) {
			copyHeader(req.Header, c.R.Header, name)
		}
	}
	if reader != nil {
		copyHeader(req.Header, c.R.Header, "Content-Type")
		req.ContentLength = c.R.ContentLength
	}
	req.Header.Set("User-Agent", "citysync-pds/"+s.cfg.Version)
	return req, body, nil
}

func copyHeader(to, from http.Header, name string) {
	if v := from.Values(name); len(v) > 0 {
		to.Set(name, strings.Join(v, ", "))
	}
}

// pass gives the client what the service answered. Its beginning is read before anything is said: once the first byte is out, an error can only
// cut the connection.
func (p *proxy) pass(ctx context.Context, c *xrpc.Call, resp *http.Response, done *progress) (any, error) {
	h := c.W.Header()
	switch {
	case resp.StatusCode >= http.StatusBadRequest:
		return nil, p.refusal(h, resp)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, p.fail("the service answered %d", resp.StatusCode)
	case resp.Header.Get("Content-Encoding") != "": // the transport unpacks what it asked for
		return nil, p.fail("the service answered in a coding that was not asked for")
	case resp.ContentLength > proxyMaxAnswer:
		return nil, p.fail("the answer is longer than %d bytes", proxyMaxAnswer)
	}
	answer := io.LimitReader(&carriedBody{from: resp.Body, done: done}, proxyMaxAnswer+1)
	head, err := io.ReadAll(io.LimitReader(answer, proxyHead))
	if err != nil {
		return nil, p.failed(ctx, err)
	}
	for _, name := range proxyAnswer {
		copyHeader(h, resp.Header, name)
	}
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", anyBytes)
	}
	// Another host's bytes under this host's name: never a page of it.
	h.Set("Content-Security-Policy", blobPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	if resp.ContentLength >= 0 {
		h.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	c.W.WriteHeader(resp.StatusCode)
	if _, err := c.W.Write(head); err != nil {
		return nil, context.Canceled // the client has gone
	}
	rest, err := io.Copy(c.W, answer)
	if err == nil && int64(len(head))+rest > proxyMaxAnswer {
		err = xrpc.ErrAnswerTooLarge
	}
	if gone := c.Context().Err(); err != nil && gone != nil {
		return nil, gone
	}
	if err != nil {
		return nil, p.fail("the answer broke off: %v", err)
	}
	p.count.WithLabelValues("answered").Inc()
	return xrpc.Written, nil
}

// refusal is the service's own error, in bounded text. Its 500 is not ours.
func (p *proxy) refusal(h http.Header, resp *http.Response) error {
	for _, name := range proxyAnswer {
		if strings.HasPrefix(name, "Atproto-") {
			copyHeader(h, resp.Header, name)
		}
	}
	p.count.WithLabelValues("refused").Inc()
	e := xrpc.ReadError(resp)
	if e.Status == http.StatusInternalServerError {
		e.Status = http.StatusBadGateway
	}
	return e
}

func (p *proxy) fail(format string, a ...any) error {
	p.count.WithLabelValues("failed").Inc()
	return upstreamFailure(format, a...)
}

// failed names why no answer came.
func (p *proxy) failed(ctx context.Context, err error) error {
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	switch {
	case errors.As(err, &tooLarge):
		return err
	case errors.Is(context.Cause(ctx), errStalled), errors.As(err, &timeout) && timeout.Timeout():
		p.count.WithLabelValues("failed").Inc()
		return xrpc.Errorf(http.StatusGatewayTimeout, nameUpstreamTimeout, "the service did not answer in time")
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return p.fail("the service cannot be reached")
}

const nameUpstreamTimeout = "UpstreamTimeout"

// carriedBody says when it moves, and reads nothing after its end.
type carriedBody struct {
	from io.ReadCloser
	done *progress

	mu   sync.Mutex // guards over, and one read at a time
	over bool
}

func (b *carriedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.from.Read(p)
	if n > 0 {
		b.done.moved()
	}
	return n, err
}

func (b *carriedBody) end() {
	b.done.stop(nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
}
