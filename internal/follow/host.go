package follow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// hostError is a refusal that has nothing to do with the bytes.
type hostError struct {
	reason string
	err    error
}

func (e *hostError) Error() string { return e.reason + ": " + e.err.Error() }
func (e *hostError) Unwrap() error { return e.err }

// author resolves a DID and gives its signing key, provided its PDS is this
// host. A document that says otherwise is fetched anew once: the account may
// just have moved here.
func (f *Follower) author(ctx context.Context, did syntax.DID) (atcrypto.PublicKey, error) {
	key, err := f.resolve(ctx, did)
	if err != nil && f.purge(ctx, did) {
		key, err = f.resolve(ctx, did)
	}
	return key, err
}

func (f *Follower) resolve(ctx context.Context, did syntax.DID) (key atcrypto.PublicKey, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &hostError{NoIdentity, fmt.Errorf("panic: %v", p)}
		}
	}()
	id, err := f.lookup(ctx, did)
	if err != nil {
		return nil, &hostError{NoIdentity, err}
	}
	if host, err := origin(id.PDSEndpoint()); err != nil || host != f.host {
		return nil, &hostError{WrongHost, fmt.Errorf("its PDS is %q", id.PDSEndpoint())}
	}
	key, err = id.PublicKey()
	if err != nil {
		return nil, &hostError{NoIdentity, err}
	}
	return key, nil
}

// lookup asks the directory, and again after short pauses unless it knows that
// there is no such DID.
func (f *Follower) lookup(ctx context.Context, did syntax.DID) (*identity.Identity, error) {
	pause := 50 * time.Millisecond
	for try := 0; ; try++ {
		id, err := f.cfg.Directory.LookupDID(ctx, did)
		if err == nil || try == 2 || errors.Is(err, identity.ErrDIDNotFound) {
			return id, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
		pause *= 4
	}
}

// purge forgets a DID's document, but not time and again for one DID: strangers
// could make us ask the directory for every forged event.
func (f *Follower) purge(ctx context.Context, did syntax.DID) bool {
	if !f.repair.mayPurge(did) {
		return false
	}
	if err := f.cfg.Directory.Purge(ctx, did.AtIdentifier()); err != nil {
		f.cfg.Log.Warn("identity not purged", "did", did, "error", err.Error())
		return false
	}
	return true
}

// verify checks a commit; a bad signature gets one more try with a fresh key.
func (f *Follower) verify(ctx context.Context, e *firehose.Commit, have repo.State) (*repo.Verified, error) {
	key, err := f.author(ctx, e.DID)
	if err != nil {
		return nil, err
	}
	v, err := repo.VerifyCommit(ctx, e, key, have, f.cfg.Clock.Now())
	if fresh := f.freshKey(ctx, e.DID, key, err); fresh != nil {
		return repo.VerifyCommit(ctx, e, fresh, have, f.cfg.Clock.Now())
	}
	return v, err
}

// signedRoot is the root that the author signed under the event's rev.
func (f *Follower) signedRoot(ctx context.Context, e *firehose.Commit) (cid.Cid, error) {
	key, err := f.author(ctx, e.DID)
	if err != nil {
		return cid.Undef, err
	}
	root, err := repo.SignedRoot(e, key)
	if fresh := f.freshKey(ctx, e.DID, key, err); fresh != nil {
		return repo.SignedRoot(e, fresh)
	}
	return root, err
}

// freshKey is another key than key, if err is a bad signature and there is one.
func (f *Follower) freshKey(ctx context.Context, did syntax.DID, key atcrypto.PublicKey, err error) atcrypto.PublicKey {
	var r *repo.Reject
	if !errors.As(err, &r) || r.Reason != repo.BadSignature || !f.purge(ctx, did) {
		return nil
	}
	fresh, err := f.resolve(ctx, did)
	if err != nil || fresh.Equal(key) {
		return nil
	}
	return fresh
}

// fetch gets a whole repository and verifies it.
func (f *Follower) fetch(ctx context.Context, did syntax.DID) outcome {
	key, err := f.author(ctx, did)
	if err != nil {
		return dropped(err)
	}
	full, err := f.getRepo(ctx, did, key)
	if fresh := f.freshKey(ctx, did, key, err); fresh != nil {
		full, err = f.getRepo(ctx, did, fresh)
	}
	if err != nil {
		return dropped(err)
	}
	return outcome{full: full}
}

func (f *Follower) getRepo(ctx context.Context, did syntax.DID, key atcrypto.PublicKey) (*repo.Full, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.FetchTime)
	defer cancel()
	body, err := f.get(ctx, "com.atproto.sync.getRepo", url.Values{"did": {string(did)}})
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	full, err := repo.VerifyRepo(ctx, body, did, key, f.cfg.Limits)
	if err != nil && ctx.Err() != nil {
		return nil, &hostError{FetchFailed, ctx.Err()}
	}
	return full, err
}

// latest asks for a repository's rev. The answer is a hint, never trusted.
func (f *Follower) latest(ctx context.Context, did syntax.DID) (string, error) {
	var out struct{ Rev string }
	err := f.getJSON(ctx, "com.atproto.sync.getLatestCommit", url.Values{"did": {string(did)}}, &out)
	return out.Rev, err
}

type listed struct {
	DID    string `json:"did"`
	Rev    string `json:"rev"`
	Active *bool  `json:"active"`
}

const (
	pageSize = 500
	maxPages = 10_000
)

// list calls fn for every repository the host says it has.
func (f *Follower) list(ctx context.Context, fn func(did syntax.DID, rev string, active bool) error) error {
	cursor := ""
	for range maxPages {
		var page struct {
			Cursor string
			Repos  []listed
		}
		q := url.Values{"limit": {fmt.Sprint(pageSize)}}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		if err := f.getJSON(ctx, "com.atproto.sync.listRepos", q, &page); err != nil {
			return err
		}
		for _, r := range page.Repos {
			did, err := syntax.ParseDID(r.DID)
			if err != nil {
				f.metrics.drop("BadListing")
				continue
			}
			if err := fn(did, r.Rev, r.Active == nil || *r.Active); err != nil {
				return err
			}
		}
		if page.Cursor == "" || page.Cursor == cursor || len(page.Repos) == 0 {
			return nil
		}
		cursor = page.Cursor
	}
	return fmt.Errorf("listRepos: more than %d pages", maxPages)
}

const maxJSON = 1 << 20

func (f *Follower) getJSON(ctx context.Context, nsid string, q url.Values, out any) error {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.FetchTime)
	defer cancel()
	body, err := f.get(ctx, nsid, q)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(body, maxJSON+1))
	if err == nil && len(raw) > maxJSON {
		err = errors.New("answer too long")
	}
	if err == nil {
		err = json.Unmarshal(raw, out)
	}
	if err != nil {
		return &hostError{FetchFailed, fmt.Errorf("%s: %w", nsid, err)}
	}
	return nil
}

func (f *Follower) get(ctx context.Context, nsid string, q url.Values) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.host+"/xrpc/"+nsid+"?"+q.Encode(), nil)
	if err != nil {
		return nil, &hostError{FetchFailed, err}
	}
	res, err := f.cfg.HTTP.Do(req)
	if err != nil {
		return nil, &hostError{FetchFailed, err}
	}
	if res.StatusCode == http.StatusOK {
		return res.Body, nil
	}
	_ = res.Body.Close()
	reason := FetchFailed
	if res.StatusCode == http.StatusBadRequest || res.StatusCode == http.StatusNotFound {
		reason = NoRepo
	}
	return nil, &hostError{reason, fmt.Errorf("%s: status %d", nsid, res.StatusCode)}
}
