package xrpc

import (
	"errors"
	"io"
	"net/http"
	"time"
)

const (
	bodyGrace      = 30 * time.Second // for a body to begin
	bodyBytesASec  = 10 << 10         // and then at least this fast
	writeStall     = time.Minute      // for one write of an answer to go through
	discardTimeout = 5 * time.Second
)

// deadlines lets a body come at a least rate only, and no write of an answer stall. An answer as a whole may take
// as long as it needs, so that archives stream and WebSockets live (a hijacked connection loses every deadline).
func deadlines(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(&deadlineWriter{responseWriter{ResponseWriter: w}, rc}, r)
			return
		}
		body := &deadlineBody{ReadCloser: r.Body, rc: rc, begin: now()}
		r.Body = body
		next.ServeHTTP(&deadlineWriter{responseWriter{ResponseWriter: w}, rc}, r)
		if !body.ended {
			_ = rc.SetReadDeadline(now().Add(discardTimeout)) // net/http discards what the handler left
		}
	})
}

// Limit lets at most n requests into a handler at once; the others are told to come back. The mux bounds its methods by itself: this is for
// handlers beside them whose answers stand in memory while a slow client reads.
func Limit(n int, h http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			h.ServeHTTP(w, r)
		default:
			WriteError(w, Errorf(http.StatusServiceUnavailable, NameBusy, "too many requests at once").After(time.Second))
		}
	})
}

type deadlineWriter struct {
	responseWriter
	rc *http.ResponseController
}

func (w *deadlineWriter) Write(b []byte) (int, error) {
	_ = w.rc.SetWriteDeadline(now().Add(writeStall)) // not every writer can
	return w.responseWriter.Write(b)
}

func (w *deadlineWriter) Flush() {
	_ = w.rc.SetWriteDeadline(now().Add(writeStall))
	w.responseWriter.Flush()
}

// deadlineBody sets the deadline around each read and takes it away after: one left behind would fire in the
// background read of net/http and cancel a handler that is still answering.
type deadlineBody struct {
	io.ReadCloser
	rc    *http.ResponseController
	begin time.Time
	read  int64
	ended bool
}

func (b *deadlineBody) Read(p []byte) (int, error) {
	_ = b.rc.SetReadDeadline(b.begin.Add(bodyGrace + time.Duration(b.read/bodyBytesASec)*time.Second))
	n, err := b.ReadCloser.Read(p)
	_ = b.rc.SetReadDeadline(time.Time{})
	b.read += int64(n)
	if errors.Is(err, io.EOF) {
		b.ended = true
	}
	return n, err
}

// now is for durations and the deadlines of connections. It is not the service's clock: one that is moved must
// cut no connection.
func now() time.Time { return time.Now() } //nolint:forbidigo // the monotonic reading is wanted here
