//go:build crash

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

const (
	accountPassword = "a password of some length"
	markerPath      = diary + "/marker"
	fewRecords      = 60 // from so many on a scribe rather deletes
)

// member is an account with a session.
type member struct {
	h      *host
	did    syntax.DID
	handle string
	*xrpc.Client
}

// join makes an account. The same request again finds what a crash left of the first; an account that is made already is signed in to.
func (h *host) join(ctx context.Context, handle string) (*member, error) {
	code, err := h.invite(ctx)
	if err != nil {
		return nil, err
	}
	in := map[string]any{"handle": handle, "password": accountPassword, "inviteCode": code}
	var out session
	err = insist(ctx, func() error { return h.client("").Procedure(ctx, "com.atproto.server.createAccount", in, &out) })
	if named(err, "InvalidInviteCode") { // it is used up: by us, unless signing in fails
		in := map[string]any{"identifier": handle, "password": accountPassword}
		err = insist(ctx, func() error { return h.client("").Procedure(ctx, "com.atproto.server.createSession", in, &out) })
	}
	if err != nil {
		return nil, fmt.Errorf("join as %s: %w", handle, err)
	}
	return h.member(out), nil
}

type session struct {
	DID    syntax.DID `json:"did"`
	Handle string     `json:"handle"`
	Access string     `json:"accessJwt"`
}

func (h *host) member(s session) *member {
	return &member{h: h, did: s.DID, handle: s.Handle, Client: h.client("Bearer " + s.Access)}
}

func (h *host) invite(ctx context.Context) (string, error) {
	var out struct {
		Code string `json:"code"`
	}
	err := insist(ctx, func() error {
		return h.operator().Procedure(ctx, "com.atproto.server.createInviteCode", map[string]any{"useCount": 1}, &out)
	})
	return out.Code, err
}

func named(err error, name string) bool {
	var refused *xrpc.Error
	return errors.As(err, &refused) && refused.Name == name
}

// scribe writes to one repository and keeps what it asked for and what it was told. What got no answer may have been done or not; a later
// write, which waits for the former one's lock, makes sure that it is over, and then all of it is there or nothing.
type scribe struct {
	*member
	rng   *rand.Rand
	count int               // makes every value and key its own
	have  map[string]string // CID by path
	blobs map[string]page   // by path of the record that refers to it
	tries []*try
	acked int
}

// page is a blob that was uploaded.
type page struct {
	ref   json.RawMessage // as a record refers to it
	bytes []byte
}

// try is one write as it was asked for.
type try struct {
	ops  map[string]string // CID by path, empty for a delete
	rev  string            // of the commit, once that was answered
	cid  string
	seen int
}

func newScribe(t *testing.T, h *host, n int) *scribe {
	t.Helper()
	m, err := h.join(t.Context(), fmt.Sprintf("scribe%d.test", n))
	require.NoError(t, err)
	return &scribe{member: m, rng: rand.New(rand.NewPCG(uint64(n), 2)), have: map[string]string{}, blobs: map[string]page{}}
}

// draft is a write that is being put together.
type draft struct {
	s      *scribe
	ops    map[string]string
	blobs  map[string]page
	writes []map[string]any
}

func (s *scribe) draft() *draft {
	return &draft{s: s, ops: map[string]string{}, blobs: map[string]page{}}
}

func (d *draft) set(path string, blob *page) error {
	d.s.count++
	value := map[string]any{"$type": diary, "text": fmt.Sprintf("entry %d", d.s.count)}
	if blob != nil {
		value["page"] = blob.ref
		d.blobs[path] = *blob
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	cbor, err := lexicons.EncodeJSONToCBOR(raw)
	if err != nil {
		return err
	}
	action := "create"
	if d.s.have[path] != "" {
		action = "update"
	}
	d.ops[path] = repo.CIDForCBOR(cbor).String()
	d.writes = append(d.writes, d.write(action, path, raw))
	return nil
}

func (d *draft) drop(path string) {
	d.ops[path] = ""
	d.writes = append(d.writes, d.write("delete", path, nil))
}

func (d *draft) write(action, path string, value json.RawMessage) map[string]any {
	w := map[string]any{"$type": "com.atproto.repo.applyWrites#" + action, "collection": diary, "rkey": strings.TrimPrefix(path, diary+"/")}
	if value != nil {
		w["value"] = value
	}
	return w
}

func (s *scribe) fresh() string {
	s.count++
	return fmt.Sprintf("%s/%08x-%d", diary, s.rng.Uint32(), s.count) // all over the tree
}

// some picks records of which there are.
func (s *scribe) some(n int) []string {
	paths := slices.DeleteFunc(slices.Sorted(maps.Keys(s.have)), func(path string) bool { return path == markerPath })
	s.rng.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	return paths[:min(n, len(paths))]
}

// step is one write.
func (s *scribe) step(ctx context.Context) error {
	d := s.draft()
	few := len(s.have) < fewRecords
	switch k := s.rng.IntN(10); {
	case k < 2 || len(s.have) < 5:
		if err := d.set(s.fresh(), nil); err != nil {
			return err
		}
		return s.send(ctx, d, "com.atproto.repo.createRecord", "record")
	case k < 4:
		blob, err := s.upload(ctx, bytes.Repeat(fmt.Appendf(nil, "page %d of %s\n", s.count, s.did), 50))
		if err != nil {
			return err
		}
		path := s.fresh()
		if !few {
			path = s.some(1)[0]
		}
		if err := d.set(path, blob); err != nil {
			return err
		}
		return s.send(ctx, d, "com.atproto.repo.putRecord", "record")
	case k < 6:
		if err := d.set(s.some(1)[0], nil); err != nil {
			return err
		}
		return s.send(ctx, d, "com.atproto.repo.putRecord", "record")
	case k < 8:
		d.drop(s.some(1)[0])
		return s.send(ctx, d, "com.atproto.repo.deleteRecord", "")
	}
	known := s.some(4)
	for i, path := range known {
		if i < 2 || !few {
			d.drop(path)
		} else if err := d.set(path, nil); err != nil {
			return err
		}
	}
	for range 1 + s.rng.IntN(4) {
		if err := d.set(s.fresh(), nil); err != nil {
			return err
		}
	}
	return s.send(ctx, d, "com.atproto.repo.applyWrites", "")
}

// send asks once. It is a refusal of what is in order that is an error; no answer is none.
func (s *scribe) send(ctx context.Context, d *draft, nsid, value string) error {
	in := map[string]any{"repo": s.did, "validate": false}
	if nsid == "com.atproto.repo.applyWrites" {
		in["writes"] = d.writes
	} else {
		in["collection"], in["rkey"] = diary, d.writes[0]["rkey"]
		if value != "" {
			in[value] = d.writes[0]["value"]
		} else {
			delete(in, "validate")
		}
	}
	t := &try{ops: d.ops}
	s.tries = append(s.tries, t)
	var out ack
	err := s.Procedure(ctx, nsid, in, &out)
	switch {
	case err == nil && out.Commit.Rev == "":
		return fmt.Errorf("%s by %s was answered without a commit", nsid, s.did)
	case err == nil:
		t.rev, t.cid = out.Commit.Rev, out.Commit.CID
		s.acked++
		s.done(d)
		return nil
	case !away(err):
		return fmt.Errorf("%s by %s: %w", nsid, s.did, err)
	}
	if err := s.marker(ctx); err != nil {
		return err
	}
	done, err := s.wasDone(ctx, d)
	if err == nil && done {
		s.done(d)
	}
	return err
}

func (s *scribe) done(d *draft) {
	for path, c := range d.ops {
		delete(s.blobs, path)
		if s.have[path] = c; c == "" {
			delete(s.have, path)
		}
	}
	maps.Copy(s.blobs, d.blobs)
}

// marker writes one record until that is answered, each time another value.
func (s *scribe) marker(ctx context.Context) error {
	return insist(ctx, func() error {
		d := s.draft()
		if err := d.set(markerPath, nil); err != nil {
			return err
		}
		t := &try{ops: d.ops}
		s.tries = append(s.tries, t)
		var out ack
		in := map[string]any{"repo": s.did, "collection": diary, "rkey": "marker", "record": d.writes[0]["value"], "validate": false}
		if err := s.Procedure(ctx, "com.atproto.repo.putRecord", in, &out); err != nil {
			return err
		}
		t.rev, t.cid = out.Commit.Rev, out.Commit.CID
		s.acked++
		s.done(d)
		return nil
	})
}

// wasDone looks whether a write that was not answered is there, and finds it halfway where some of it is.
func (s *scribe) wasDone(ctx context.Context, d *draft) (bool, error) {
	there, not := 0, 0
	for path, want := range d.ops {
		var out struct {
			CID string `json:"cid"`
		}
		q := url.Values{"repo": {s.did.String()}, "collection": {diary}, "rkey": {strings.TrimPrefix(path, diary+"/")}}
		err := insist(ctx, func() error { return s.h.client("").Query(ctx, "com.atproto.repo.getRecord", q, &out) })
		if err != nil && !named(err, "RecordNotFound") {
			return false, err
		}
		switch out.CID {
		case want:
			there++
		case s.have[path]:
			not++
		default:
			return false, fmt.Errorf("%s of %s is %q, and was %q before %q was asked for", path, s.did, out.CID, s.have[path], want)
		}
	}
	if there > 0 && not > 0 {
		return false, fmt.Errorf("of a write to %s %d changes are there and %d are not", s.did, there, not)
	}
	return there > 0, nil
}

func (m *member) upload(ctx context.Context, blob []byte) (*page, error) {
	var out struct {
		Blob json.RawMessage `json:"blob"`
	}
	err := insist(ctx, func() error {
		return m.Upload(ctx, "com.atproto.repo.uploadBlob", "text/plain", bytes.NewReader(blob), &out)
	})
	return &page{ref: out.Blob, bytes: blob}, err
}

func (p *page) cid(t *testing.T) string {
	t.Helper()
	var blob struct {
		Ref struct {
			Link string `json:"$link"`
		} `json:"ref"`
	}
	require.NoError(t, json.Unmarshal(p.ref, &blob))
	return blob.Ref.Link
}

// check holds what the stream told of the repository against what was asked for and acknowledged.
func (s *scribe) check(t *testing.T, r *reader) {
	t.Helper()
	_, records := r.at(s.did)
	assert.Equal(t, s.have, records, "records of %s", s.handle)
	open := map[string][]*try{}
	byRev := map[string]*try{}
	for _, try := range s.tries {
		if try.rev != "" {
			byRev[try.rev] = try
		} else {
			open[fmt.Sprint(try.ops)] = append(open[fmt.Sprint(try.ops)], try) // maps are printed in order
		}
	}
	r.mu.Lock()
	commits := slices.Clone(r.commits[s.did])
	r.mu.Unlock()
	unanswered := 0
	for _, c := range commits {
		try := byRev[c.rev]
		switch unasked := open[fmt.Sprint(c.ops)]; {
		case try != nil:
			assert.Equal(t, try.cid, c.cid, "event %d", c.seq)
			assert.Equal(t, try.ops, c.ops, "event %d", c.seq)
			try.seen++
		case len(unasked) > 0:
			open[fmt.Sprint(c.ops)] = unasked[1:]
			unanswered++
		default:
			assert.Empty(t, c.ops, "event %d of %s is of a write that nobody asked for", c.seq, s.handle)
		}
	}
	for _, try := range byRev {
		assert.Equal(t, 1, try.seen, "%v was acknowledged as %s of %s", try.ops, try.rev, s.handle)
	}
	t.Logf("%s: %d writes acknowledged, each told once; %d more were done of those without an answer", s.handle, s.acked, unanswered)
	for path, blob := range s.blobs {
		status, raw, err := get(t.Context(), s.h.url+"/xrpc/com.atproto.sync.getBlob?"+url.Values{"did": {s.did.String()}, "cid": {blob.cid(t)}}.Encode())
		if assert.NoError(t, err) && assert.Equal(t, http.StatusOK, status, "blob of %s: %s", path, raw) {
			assert.Equal(t, blob.bytes, raw, "blob of %s", path)
		}
	}
}
