//go:build crash

package crash

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/xrpc"
)

const (
	diary      = "com.example.diary" // a collection that nobody's rules know
	writeEvery = 25 * time.Millisecond
	blobEvery  = 4 // of that many records one has a blob
)

// writer writes records one after the other and remembers each that the PDS answered for. What got no answer it asks again under the same
// key, as a client does.
type writer struct {
	pds    string
	did    string
	token  string
	acked  []ack
	latest atomic.Int64 // how many are acknowledged
}

// ack is what the PDS answered.
type ack struct {
	URI    string `json:"uri"`
	CID    string `json:"cid"`
	Commit struct {
		CID string `json:"cid"`
		Rev string `json:"rev"`
	} `json:"commit"`
	rkey string
	blob []byte // nil without one
}

func newWriter(t *testing.T, pds, adminPassword string) *writer {
	t.Helper()
	w := &writer{pds: pds}
	admin := &xrpc.Client{Base: pds, Auth: func(context.Context, string) (string, error) {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+adminPassword)), nil
	}}
	var invite struct {
		Code string `json:"code"`
	}
	require.NoError(t, admin.Procedure(t.Context(), "com.atproto.server.createInviteCode", map[string]any{"useCount": 1}, &invite))
	var account struct {
		DID    string `json:"did"`
		Access string `json:"accessJwt"`
	}
	asked := map[string]any{"handle": "diarist.test", "password": "a password of some length", "inviteCode": invite.Code}
	require.NoError(t, (&xrpc.Client{Base: pds}).Procedure(t.Context(), "com.atproto.server.createAccount", asked, &account))
	w.did, w.token = account.DID, account.Access
	return w
}

// run writes until ctx ends, which is no error.
func (w *writer) run(ctx context.Context) error {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		if err := w.one(ctx, n); err != nil && ctx.Err() == nil {
			return fmt.Errorf("record %d: %w", n, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *writer) one(ctx context.Context, n int) error {
	value := map[string]any{"$type": diary, "text": fmt.Sprintf("entry %d", n)}
	var blob []byte
	if n%blobEvery == 0 {
		blob = bytes.Repeat(fmt.Appendf(nil, "page %d\n", n), 100)
		ref, err := w.upload(ctx, blob)
		if err != nil {
			return err
		}
		value["page"] = ref
	}
	got := ack{rkey: fmt.Sprintf("n%06d", n), blob: blob}
	in := map[string]any{"repo": w.did, "collection": diary, "rkey": got.rkey, "record": value}
	unanswered := false
	for {
		err := w.client().Procedure(ctx, "com.atproto.repo.createRecord", in, &got)
		var answer *xrpc.Error
		switch {
		case err == nil:
			w.acked = append(w.acked, got)
			w.latest.Add(1)
			return nil
		case unanswered && errors.As(err, &answer) && answer.Name == "RecordAlreadyExists":
			return nil // written, but nobody had said so
		case !away(err):
			return err
		}
		unanswered = true
		if wait(ctx) != nil {
			return ctx.Err()
		}
	}
}

func (w *writer) upload(ctx context.Context, blob []byte) (json.RawMessage, error) {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.pds+"/xrpc/com.atproto.repo.uploadBlob", bytes.NewReader(blob))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+w.token)
		req.Header.Set("Content-Type", "text/plain")
		var out struct {
			Blob  json.RawMessage `json:"blob"`
			Error string          `json:"error"`
		}
		res, err := plain.Do(req)
		if err == nil {
			err = json.NewDecoder(res.Body).Decode(&out)
			_ = res.Body.Close()
			if err == nil && res.StatusCode == http.StatusOK {
				return out.Blob, nil
			}
			if err == nil && res.StatusCode < 500 {
				return nil, fmt.Errorf("upload: %d %s", res.StatusCode, out.Error)
			}
		}
		if wait(ctx) != nil {
			return nil, ctx.Err()
		}
	}
}

func (w *writer) client() *xrpc.Client {
	return &xrpc.Client{Base: w.pds, Auth: func(context.Context, string) (string, error) { return "Bearer " + w.token, nil }}
}

// away tells no answer, or an answer that says nothing, from a refusal.
func away(err error) bool {
	var answer *xrpc.Error
	if errors.As(err, &answer) {
		return answer.Status >= 500
	}
	var network *url.Error
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) // of an answer that broke off
}

func wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pollEvery):
		return nil
	}
}

// check looks for everything that was acknowledged in the repository as it is now.
func (w *writer) check(t *testing.T, delivered *consumer) {
	t.Helper()
	require.NotEmpty(t, w.acked)
	for _, a := range w.acked {
		var have struct {
			CID   string `json:"cid"`
			Value struct {
				Page struct {
					Ref struct {
						Link string `json:"$link"`
					} `json:"ref"`
				} `json:"page"`
			} `json:"value"`
		}
		err := (&xrpc.Client{Base: w.pds}).Query(t.Context(), "com.atproto.repo.getRecord",
			url.Values{"repo": {w.did}, "collection": {diary}, "rkey": {a.rkey}}, &have)
		if !assert.NoError(t, err, "%s was acknowledged", a.URI) {
			continue
		}
		assert.Equal(t, a.CID, have.CID, "%s", a.URI)
		assert.Equal(t, a.CID, delivered.record(w.did, diary+"/"+a.rkey), "%s was acknowledged and not delivered", a.URI)
		if a.blob == nil {
			continue
		}
		status, raw, err := get(t.Context(), w.pds+"/xrpc/com.atproto.sync.getBlob?"+
			url.Values{"did": {w.did}, "cid": {have.Value.Page.Ref.Link}}.Encode())
		if assert.NoError(t, err) && assert.Equal(t, http.StatusOK, status, "blob of %s: %s", a.URI, raw) {
			assert.Equal(t, a.blob, raw, "blob of %s", a.URI)
		}
	}
}

// consumer reads the firehose and resumes by cursor. It holds what came against the order that every consumer relies on.
type consumer struct {
	mu      sync.Mutex // guards what follows
	last    int64
	revs    map[string]string            // by repository
	records map[string]map[string]string // CID by repository and path
	wrong   []string
}

func newConsumer() *consumer {
	return &consumer{revs: map[string]string{}, records: map[string]map[string]string{}}
}

func (c *consumer) run(ctx context.Context, pds string) error {
	client, err := firehose.NewClient(firehose.ClientConfig{Host: pds, Cursor: 0, MaxBackoff: time.Second}, c)
	if err != nil {
		return err
	}
	return client.Run(ctx)
}

func (c *consumer) Connected(context.Context) error { return nil }

func (c *consumer) Garbage(_ context.Context, err error) error { return err }

func (c *consumer) Event(_ context.Context, ev firehose.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	seq := ev.Sequence()
	if seq == 0 {
		return nil
	}
	if seq <= c.last {
		c.wrong = append(c.wrong, fmt.Sprintf("event %d came after %d", seq, c.last))
	}
	c.last = seq
	commit, ok := ev.(*firehose.Commit)
	if !ok {
		return nil
	}
	did := commit.DID.String()
	if commit.Since != c.revs[did] || commit.Rev <= commit.Since {
		c.wrong = append(c.wrong, fmt.Sprintf("event %d of %s goes from %q to %q, before it came %q", seq, did, commit.Since, commit.Rev, c.revs[did]))
	}
	c.revs[did] = commit.Rev
	if c.records[did] == nil {
		c.records[did] = map[string]string{}
	}
	for _, op := range commit.Ops {
		if op.CID != nil {
			c.records[did][op.Path] = op.CID.String()
		} else {
			delete(c.records[did], op.Path)
		}
	}
	return nil
}

func (c *consumer) record(did, path string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.records[did][path]
}

func (c *consumer) rev(did string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revs[did]
}

func (c *consumer) sequence() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}
