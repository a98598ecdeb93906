package xrpc

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	defaultMaxBody       = 1_000_000
	defaultMaxConcurrent = 1024

	// lingerBytes are still read of a body that is too long by no more than this: its sender then sees the answer, where a connection
	// closed under it could break before the answer was read.
	lingerBytes = 4 << 20
)

// Config configures a Mux. Every field may be left empty.
type Config struct {
	Log           *slog.Logger
	MaxBody       int64                 // bytes of a request body, default 1,000,000
	MaxConcurrent int                   // methods running at once, default 1,024; more are answered 503
	Metrics       prometheus.Registerer // counts and durations by method; none when nil
	// Away tells an error of something that the service stands on and that is not there now, such as its database. It is
	// answered as 503 with the advice to come back: an answer of 500 would be final. None when nil.
	Away func(error) bool
	// Gate is asked first of every request but a preflight; its error is the answer, such as one that too many came. None when nil.
	Gate func(http.ResponseWriter, *http.Request) error
}

// Mux routes /xrpc/<nsid> to methods and other patterns to plain handlers. Register everything before it serves.
type Mux struct {
	log       *slog.Logger
	away      func(error) bool
	gate      func(http.ResponseWriter, *http.Request) error
	maxBody   int64
	methods   map[string]*method
	otherwise *method // nil: 501
	routes    *http.ServeMux
	patterns  []string // of routes
	slots     chan struct{}
	metrics   *metrics
	entry     http.Handler
}

type method struct {
	nsid    string
	verb    string // GET or POST
	fn      func(*Call) (any, error)
	maxBody int64
}

// Option changes one method's defaults.
type Option func(*method)

// MaxBody sets the body limit of one procedure.
func MaxBody(n int64) Option { return func(m *method) { m.maxBody = n } }

// NewMux makes a Mux.
func NewMux(cfg Config) *Mux {
	m := &Mux{
		log:     cfg.Log,
		away:    cfg.Away,
		gate:    cfg.Gate,
		maxBody: cfg.MaxBody,
		methods: make(map[string]*method),
		routes:  http.NewServeMux(),
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.maxBody <= 0 {
		m.maxBody = defaultMaxBody
	}
	slots := cfg.MaxConcurrent
	if slots <= 0 {
		slots = defaultMaxConcurrent
	}
	m.slots = make(chan struct{}, slots)
	m.metrics = newMetrics(cfg.Metrics)
	m.routes.HandleFunc("/xrpc/{nsid}", m.serveMethod)
	m.entry = deadlines(http.HandlerFunc(m.serve))
	return m
}

// Query registers a method that is asked with GET and changes nothing.
func (m *Mux) Query(nsid string, fn func(*Call) (any, error), opts ...Option) {
	m.register(http.MethodGet, nsid, fn, opts)
}

// Procedure registers a method that is called with POST.
func (m *Mux) Procedure(nsid string, fn func(*Call) (any, error), opts ...Option) {
	m.register(http.MethodPost, nsid, fn, opts)
}

func (m *Mux) register(verb, nsid string, fn func(*Call) (any, error), opts []Option) {
	if _, err := syntax.ParseNSID(nsid); err != nil {
		panic(fmt.Sprintf("xrpc: %q is no NSID", nsid)) // wiring fault, seen at start
	}
	if _, taken := m.methods[nsid]; taken {
		panic(fmt.Sprintf("xrpc: %s registered twice", nsid))
	}
	me := &method{nsid: nsid, verb: verb, fn: fn, maxBody: m.maxBody}
	for _, o := range opts {
		o(me)
	}
	m.methods[nsid] = me
}

// Handle registers a handler beside the methods, by a pattern of net/http. A pattern below /xrpc/ takes its
// requests before the methods do, which is how a WebSocket is served.
func (m *Mux) Handle(pattern string, h http.Handler) {
	m.routes.Handle(pattern, h)
	m.patterns = append(m.patterns, pattern)
}

// Served lists the methods and the patterns beside them, each in order, so that what is written about a service can be held against it.
func (m *Mux) Served() (methods, patterns []string) {
	return slices.Sorted(maps.Keys(m.methods)), slices.Sorted(slices.Values(m.patterns))
}

// Otherwise sets what answers an NSID that is not registered here, asked with GET or called with POST. The default is 501
// MethodNotImplemented.
func (m *Mux) Otherwise(fn func(*Call) (any, error), opts ...Option) {
	m.otherwise = &method{fn: fn, maxBody: m.maxBody}
	for _, o := range opts {
		o(m.otherwise)
	}
}

// find answers the method of a request and the name under which it is counted. What is not served here is counted as one, since its
// names are the strangers' choice.
func (m *Mux) find(nsid, verb string) (me *method, label string, err *Error) {
	if me, ok := m.methods[nsid]; ok {
		return me, nsid, nil
	}
	if m.otherwise == nil {
		return nil, "other", Errorf(http.StatusNotImplemented, NameNotImplemented, "method not implemented")
	}
	if _, err := syntax.ParseNSID(nsid); err != nil {
		return nil, "other", InvalidRequest("the path names no method")
	}
	other := *m.otherwise
	other.nsid, other.verb = nsid, http.MethodGet
	if verb == http.MethodPost {
		other.verb = http.MethodPost
	}
	return &other, "other", nil
}

type requestIDKey struct{}

// RequestID is the id under which the running request is logged.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

func newRequestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never errs
	return hex.EncodeToString(b[:])
}

// ServeHTTP serves one request. It is the whole entry: CORS, request id, deadlines and panics are dealt with here.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.entry.ServeHTTP(w, r) }

func (m *Mux) serve(rw http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	w := &responseWriter{ResponseWriter: rw}
	w.Header().Set("X-Request-Id", id)
	if cors(w, r) {
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		m.log.ErrorContext(r.Context(), "panic in handler", "request_id", id, "path", logPath(r.URL.Path), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		m.fail(w, Errorf(http.StatusInternalServerError, NameInternal, internalErrorMessage))
	}()
	if m.gate != nil {
		if err := m.gate(w, r); err != nil {
			m.answer(w, r, &method{nsid: "other"}, err)
			return
		}
	}
	if _, pattern := m.routes.Handler(r); pattern == "" {
		WriteError(w, Errorf(http.StatusNotFound, NameNotFound, "nothing is served here"))
		return
	}
	m.routes.ServeHTTP(w, r)
}

func (m *Mux) serveMethod(rw http.ResponseWriter, r *http.Request) {
	w, _ := rw.(*responseWriter)
	if w == nil {
		w = &responseWriter{ResponseWriter: rw}
	}
	me, label, unknown := m.find(r.PathValue("nsid"), r.Method)
	done := m.metrics.start(label)
	defer func() { done(w.code()) }()
	if unknown != nil {
		WriteError(w, unknown)
		return
	}
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	default:
		WriteError(w, Errorf(http.StatusServiceUnavailable, NameBusy, "too many requests at once").After(time.Second))
		return
	}
	if err := m.run(w, r, me); err != nil {
		m.answer(w, r, me, err)
	}
}

func (m *Mux) run(w *responseWriter, r *http.Request, me *method) error {
	if r.Method != me.verb && !(me.verb == http.MethodGet && r.Method == http.MethodHead) {
		allow := me.verb
		if allow == http.MethodGet {
			allow = "GET, HEAD"
		}
		w.Header().Set("Allow", allow)
		return Errorf(http.StatusMethodNotAllowed, NameInvalidRequest, "this method is called with %s", me.verb)
	}
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return InvalidRequest("the query string is malformed")
	}
	if me.verb == http.MethodPost {
		if ce := r.Header.Get("Content-Encoding"); ce != "" && !strings.EqualFold(ce, "identity") {
			return Errorf(http.StatusUnsupportedMediaType, NameUnsupportedMedia, "content encoding %.32q is not accepted", ce)
		}
		if r.ContentLength > me.maxBody {
			w.Header().Set("Connection", "close")
			if r.ContentLength <= me.maxBody+lingerBytes {
				_, _ = io.Copy(io.Discard, r.Body) // the answer does not depend on it
			}
			return &http.MaxBytesError{Limit: me.maxBody}
		}
		r.Body = http.MaxBytesReader(w, r.Body, me.maxBody)
	} else {
		r.Body = http.NoBody // a query has no body; whatever was sent is not read
	}
	c := &Call{R: r, W: w, NSID: me.nsid, params: params}
	out, err := me.fn(c)
	switch {
	case c.invalid != nil:
		return c.invalid
	case err != nil:
		return err
	}
	if _, ok := out.(written); ok {
		return nil
	}
	return writeJSON(w, out)
}

func writeJSON(w http.ResponseWriter, out any) error {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	if out == nil {
		h.Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	_, _ = w.Write(buf.Bytes()) // the caller has gone if this errs
	return nil
}

// answer is the one place that turns an error into HTTP.
func (m *Mux) answer(w *responseWriter, r *http.Request, me *method, err error) {
	e, shown := public(err)
	if !shown && m.away != nil && m.away(err) {
		e, shown = Errorf(http.StatusServiceUnavailable, NameBusy, "the service cannot work just now; ask again").After(time.Second), true
	}
	switch {
	case !shown:
		m.log.ErrorContext(r.Context(), "method failed", "request_id", RequestID(r.Context()), "method", me.nsid, "error", err)
	case e.Status >= 500 && !errors.Is(err, context.Canceled):
		m.log.WarnContext(r.Context(), "method unavailable", "request_id", RequestID(r.Context()), "method", me.nsid, "name", e.Name, "error", err)
	}
	m.fail(w, e)
}

func (m *Mux) fail(w *responseWriter, e *Error) {
	if w.status != 0 {
		// The answer has begun: cutting the connection is the only way left to say that it is not whole.
		panic(http.ErrAbortHandler)
	}
	WriteError(w, e)
}

func logPath(p string) string {
	if len(p) > 200 {
		p = p[:200]
	}
	return p
}

// errHijack is returned by Hijack where the connection cannot be taken over.
var errHijack = errors.New("connection cannot be hijacked")
