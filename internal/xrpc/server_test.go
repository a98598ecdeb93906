package xrpc

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// deadlineRecorder notes the deadlines that a connection was given.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	read, write []time.Time
}

func (d *deadlineRecorder) SetReadDeadline(t time.Time) error { d.read = append(d.read, t); return nil }
func (d *deadlineRecorder) SetWriteDeadline(t time.Time) error {
	d.write = append(d.write, t)
	return nil
}

func TestDeadlinesStandAroundEachReadAndWrite(t *testing.T) {
	t.Parallel()
	h := deadlines(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "one")
		_, _ = io.WriteString(w, "two")
	}))
	rec := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(rec, httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader("a"), strings.NewReader("b"))))
	assert.Equal(t, "onetwo", rec.Body.String())
	assert.Len(t, rec.write, 2)
	if assert.NotEmpty(t, rec.read) {
		assert.False(t, rec.read[0].IsZero())
		assert.True(t, rec.read[len(rec.read)-1].IsZero(), "no read deadline may outlive the read")
	}

	unread := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
	deadlines(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(unread, httptest.NewRequest("POST", "/", strings.NewReader("a")))
	if assert.Len(t, unread.read, 1) {
		assert.False(t, unread.read[0].IsZero(), "what the handler left is discarded in bounded time")
	}
}
