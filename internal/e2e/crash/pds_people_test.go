//go:build crash

package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/oauth/apptest"
)

const peopleEvery = 5 * time.Millisecond

// people do, over and over, all that is not a write. Each asks again until there is an answer, as a client does.
func (h *host) people(t *testing.T) []func(context.Context) error {
	t.Helper()
	return []func(context.Context) error{h.newcomer, h.mover, h.organization(t), h.app(t)}
}

// course is a row of steps that share what they learn.
type course []func(context.Context) error

// run takes the steps in turn, from the first again after the last, until ctx ends. A course that began is brought to its end, so nothing of it
// is left halfway by us.
func (h *host) run(ctx context.Context, begin func(n int) course) error {
	for n := 0; ctx.Err() == nil; n++ {
		for i, step := range begin(n) {
			err := func() error {
				h.held.RLock()
				defer h.held.RUnlock()
				return step(context.WithoutCancel(ctx))
			}()
			if err != nil {
				return fmt.Errorf("course %d, step %d: %w", n, i, err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(peopleEvery):
		}
	}
	return nil
}

// call asks until there is an answer.
func call(ctx context.Context, c *xrpc.Client, nsid string, in map[string]any, out any) error {
	return insist(ctx, func() error { return c.Procedure(ctx, nsid, in, out) })
}

// doneOr is no error where a refusal says that the first request was done, whose answer was lost.
func doneOr(err error, name string) error {
	if named(err, name) {
		return nil
	}
	return err
}

func (m *member) remove(ctx context.Context) error {
	in := map[string]any{"did": m.did, "password": accountPassword, "token": ""}
	return doneOr(call(ctx, m.h.client(""), "com.atproto.server.deleteAccount", in, nil), "AuthenticationRequired")
}

func (m *member) put(ctx context.Context, rkey string, value map[string]any) error {
	in := map[string]any{"repo": m.did, "collection": diary, "rkey": rkey, "record": value, "validate": false}
	return call(ctx, m.Client, "com.atproto.repo.putRecord", in, nil)
}

// newcomer signs up, writes a little with a picture that a moderator takes down for a while, and leaves for good.
func (h *host) newcomer(ctx context.Context) error {
	return h.run(ctx, func(n int) course {
		var m *member
		var blob *page
		quarantine := func(on bool) func(context.Context) error {
			return func(ctx context.Context) error {
				var ref struct {
					Ref struct {
						Link string `json:"$link"`
					} `json:"ref"`
				}
				if err := json.Unmarshal(blob.ref, &ref); err != nil {
					return err
				}
				in := map[string]any{
					"subject":  map[string]any{"$type": "com.atproto.admin.defs#repoBlobRef", "did": m.did, "cid": ref.Ref.Link},
					"takedown": map[string]any{"applied": on},
				}
				if err := call(ctx, h.operator(), "com.atproto.admin.updateSubjectStatus", in, nil); err != nil {
					return err
				}
				err := insist(ctx, func() error {
					_, err := h.client("").Bytes(ctx, "com.atproto.sync.getBlob", url.Values{"did": {m.did.String()}, "cid": {ref.Ref.Link}}, 1<<20)
					return err
				})
				if on == (err == nil) {
					return fmt.Errorf("blob %s of %s is served as if takedown %t had not been said: %w", ref.Ref.Link, m.did, on, err)
				}
				return nil
			}
		}
		return course{
			func(ctx context.Context) (err error) {
				m, err = h.join(ctx, fmt.Sprintf("newcomer%d.test", n))
				return err
			},
			func(ctx context.Context) (err error) {
				if blob, err = m.upload(ctx, fmt.Appendf(nil, "picture %d", n)); err != nil {
					return err
				}
				return m.put(ctx, "picture", map[string]any{"$type": diary, "page": blob.ref})
			},
			quarantine(true),
			quarantine(false),
			func(ctx context.Context) error { return m.remove(ctx) },
			func(ctx context.Context) error { return h.isGone(ctx, m.did) },
		}
	})
}

func (h *host) isGone(ctx context.Context, did syntax.DID) error {
	err := insist(ctx, func() error {
		return h.client("").Query(ctx, "com.atproto.sync.getRepoStatus", url.Values{"did": {did.String()}}, nil)
	})
	if !named(err, "RepoNotFound") {
		return fmt.Errorf("%s was deleted, and its status is %w", did, err)
	}
	return nil
}

// mover comes with a DID and a repository of another host, changes all that can be changed, and leaves.
func (h *host) mover(ctx context.Context) error {
	return h.run(ctx, func(n int) course {
		var m *member
		var old foreign
		say := func(nsid string, in map[string]any) func(context.Context) error {
			return func(ctx context.Context) error { return call(ctx, m.Client, nsid, in, nil) }
		}
		has := func(want ...string) func(context.Context) error {
			return func(ctx context.Context) error { return h.hasRecords(ctx, m.did, want) }
		}
		const activate = "com.atproto.server.activateAccount"
		return course{
			func(ctx context.Context) (err error) {
				old, err = h.elsewhere(ctx, fmt.Sprintf("mover%d.test", n))
				return err
			},
			func(ctx context.Context) (err error) {
				m, err = h.arrive(ctx, old)
				return err
			},
			func(ctx context.Context) error {
				return insist(ctx, func() error {
					return m.Upload(ctx, "com.atproto.repo.importRepo", "application/vnd.ipld.car", strings.NewReader(string(old.car)), nil)
				})
			},
			func(ctx context.Context) error { return h.point(ctx, m, old) },
			say(activate, nil),
			has("a", "b"),
			func(ctx context.Context) error {
				return m.put(ctx, "c", map[string]any{"$type": diary, "text": "here"})
			},
			say("com.atproto.identity.updateHandle", map[string]any{"handle": fmt.Sprintf("moved%d.test", n)}),
			func(ctx context.Context) error { return h.isCalled(ctx, m.did, fmt.Sprintf("moved%d.test", n)) },
			say("com.atproto.server.deactivateAccount", map[string]any{}),
			say(activate, nil),
			say(lexicons.PdsUpdateSigningKey, nil),
			has("a", "b", "c"),
			func(ctx context.Context) error { return m.remove(ctx) },
		}
	})
}

// foreign is an account at a host that is not there any more: it has a DID in the directory and its repository as a file.
type foreign struct {
	did           syntax.DID
	handle        string
	key, rotation *atcrypto.PrivateKeyK256
	first         identity.Operation
	car           []byte
}

func (h *host) elsewhere(ctx context.Context, handle string) (f foreign, err error) {
	f.handle = handle
	if f.key, err = atcrypto.GeneratePrivateKeyK256(); err != nil {
		return f, err
	}
	if f.rotation, err = atcrypto.GeneratePrivateKeyK256(); err != nil {
		return f, err
	}
	signing, err := f.key.PublicKey()
	if err != nil {
		return f, err
	}
	rotation, err := f.rotation.PublicKey()
	if err != nil {
		return f, err
	}
	f.first = identity.Operation{
		RotationKeys: []string{rotation.DIDKey()}, VerificationMethods: map[string]string{"atproto": signing.DIDKey()},
		AlsoKnownAs: []string{"at://" + handle}, Services: map[string]identity.Service{"atproto_pds": {Type: "AtprotoPersonalDataServer", Endpoint: "https://old.example"}},
	}
	if err := f.first.Sign(f.rotation); err != nil {
		return f, err
	}
	if f.did, err = identity.GenesisDID(f.first); err != nil {
		return f, err
	}
	if err := h.plc.Submit(ctx, f.did, f.first); err != nil {
		return f, err
	}
	var writes []repo.Write
	for _, rkey := range []string{"a", "b"} {
		record, err := lexicons.EncodeCBOR(map[string]any{"$type": diary, "text": "from elsewhere " + rkey})
		if err != nil {
			return f, err
		}
		writes = append(writes, repo.Write{Action: repo.Create, Collection: diary, RKey: rkey, Record: record})
	}
	commit, err := repo.Apply(ctx, repo.MapBlocks{}, f.did, nil, writes, f.key, syntax.NewTIDNow(0).String())
	if err != nil {
		return f, err
	}
	f.car = commit.CAR // a first commit's slice is the whole
	return f, nil
}

func (h *host) arrive(ctx context.Context, f foreign) (*member, error) {
	code, err := h.invite(ctx)
	if err != nil {
		return nil, err
	}
	const nsid = "com.atproto.server.createAccount"
	in := map[string]any{"did": f.did, "handle": f.handle, "password": accountPassword, "inviteCode": code}
	var out session
	err = insist(ctx, func() error {
		token, err := xrpc.SignServiceToken(f.key, f.did.String(), pdsService, nsid, time.Now(), time.Minute)
		if err != nil {
			return err
		}
		return h.client("Bearer "+token).Procedure(ctx, nsid, in, &out)
	})
	return h.member(out), err
}

// point lets the DID name this host, as its former one would.
func (h *host) point(ctx context.Context, m *member, f foreign) error {
	var want struct {
		Keys     map[string]string           `json:"verificationMethods"`
		Rotation []string                    `json:"rotationKeys"`
		Aliases  []string                    `json:"alsoKnownAs"`
		Services map[string]identity.Service `json:"services"`
	}
	err := insist(ctx, func() error { return m.Query(ctx, "com.atproto.identity.getRecommendedDidCredentials", nil, &want) })
	if err != nil {
		return err
	}
	op := f.first.Next()
	op.VerificationMethods, op.AlsoKnownAs, op.Services, op.RotationKeys = want.Keys, want.Aliases, want.Services, append(f.first.RotationKeys, want.Rotation...)
	if err := op.Sign(f.rotation); err != nil {
		return err
	}
	return h.plc.Submit(ctx, f.did, op)
}

func (h *host) hasRecords(ctx context.Context, did syntax.DID, want []string) error {
	var out struct {
		Records []struct {
			URI string `json:"uri"`
		} `json:"records"`
	}
	q := url.Values{"repo": {did.String()}, "collection": {diary}, "reverse": {"true"}}
	if err := insist(ctx, func() error { return h.client("").Query(ctx, "com.atproto.repo.listRecords", q, &out) }); err != nil {
		return err
	}
	var have []string
	for _, r := range out.Records {
		have = append(have, r.URI[strings.LastIndex(r.URI, "/")+1:])
	}
	if fmt.Sprint(have) != fmt.Sprint(want) {
		return fmt.Errorf("%s has the records %v, not %v", did, have, want)
	}
	return nil
}

func (h *host) isCalled(ctx context.Context, did syntax.DID, handle string) error {
	last, err := h.plc.Last(ctx, did)
	if err != nil {
		return err
	}
	if len(last.AlsoKnownAs) == 0 || last.AlsoKnownAs[0] != "at://"+handle {
		return fmt.Errorf("the change of %s to %s was acknowledged, and its document says %v", did, handle, last.AlsoKnownAs)
	}
	return nil
}

// organization lets somebody of another host act for it, and takes that back.
func (h *host) organization(t *testing.T) func(context.Context) error {
	t.Helper()
	org, err := h.join(t.Context(), "organization.test")
	require.NoError(t, err)
	person, err := h.elsewhere(t.Context(), "person.example")
	require.NoError(t, err)
	as := func(ctx context.Context, nsid string, in map[string]any) error {
		return insist(ctx, func() error {
			token, err := xrpc.SignServiceToken(person.key, person.did.String(), pdsService, nsid, time.Now(), time.Minute)
			if err != nil {
				return err
			}
			return h.client("Bearer "+token).Procedure(ctx, nsid, in, nil)
		})
	}
	return func(ctx context.Context) error {
		return h.run(ctx, func(n int) course {
			const put = "com.atproto.repo.putRecord"
			write := func(ctx context.Context, text string) error {
				return as(ctx, put, map[string]any{
					"repo": org.did, "collection": diary, "rkey": "ours", "record": map[string]any{"$type": diary, "text": text}, "validate": false,
				})
			}
			return course{
				func(ctx context.Context) error {
					in := map[string]any{"controller": person.did, "role": "custom", "scope": "repo:*"}
					return call(ctx, org.Client, lexicons.PdsAddController, in, nil)
				},
				func(ctx context.Context) error {
					return as(ctx, lexicons.PdsAcceptController, map[string]any{"account": org.did})
				},
				func(ctx context.Context) error { return write(ctx, fmt.Sprintf("of role %d", n)) },
				func(ctx context.Context) error {
					return doneOr(call(ctx, org.Client, lexicons.PdsRemoveController, map[string]any{"controller": person.did}, nil), "NotController")
				},
				func(ctx context.Context) error {
					if err := write(ctx, fmt.Sprintf("after role %d", n)); !named(err, "NotController") {
						return fmt.Errorf("one whose role has ended wrote: %w", err)
					}
					return nil
				},
			}
		})
	}
}

// app is a program that somebody lets in anew each time, and that refreshes its tokens.
func (h *host) app(t *testing.T) func(context.Context) error {
	t.Helper()
	user, err := h.join(t.Context(), "user.test")
	require.NoError(t, err)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	fill := func(ctx context.Context, path string, form url.Values) (to *url.URL, err error) {
		err = insist(ctx, func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+path, strings.NewReader(form.Encode()))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Sec-Fetch-Site", "same-origin")
			res, err := browser.Do(req)
			if err != nil {
				return err
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusSeeOther {
				return &xrpc.Error{Status: res.StatusCode, Name: "Page"}
			}
			to, err = res.Location()
			return err
		})
		return to, err
	}
	_, err = fill(t.Context(), "/account/sign-in", url.Values{"identifier": {user.handle}, "password": {accountPassword}})
	require.NoError(t, err)
	a := apptest.Loopback(t, h.url, time.Now, "atproto repo:"+diary)
	form := func(ctx context.Context, path string, f url.Values) (out map[string]any, err error) {
		err = insist(ctx, func() error {
			status, answer, err := a.Try(path, f)
			if out = answer; err == nil && status >= 400 {
				return &xrpc.Error{Status: status, Name: fmt.Sprint(answer["error"])}
			}
			return err
		})
		return out, err
	}
	return func(ctx context.Context) error {
		return h.run(ctx, func(int) course {
			var tokens map[string]any
			refresh := func(ctx context.Context) (err error) {
				if tokens == nil {
					return nil
				}
				// Asked again after no answer it gives the tokens of the first time.
				tokens, err = form(ctx, "/oauth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(tokens["refresh_token"])}})
				return err
			}
			return course{
				func(ctx context.Context) error {
					pushed, err := form(ctx, "/oauth/par", a.Ask())
					if err != nil {
						return err
					}
					to, err := fill(ctx, "/oauth/authorize", url.Values{
						"client_id": {a.ID}, "request_uri": {fmt.Sprint(pushed["request_uri"])}, "as": {user.did.String()}, "do": {"allow"}, "scope": {"repo:" + diary},
					})
					if named(err, "Page") {
						return nil // the answer to the first time was lost, and the request is used up
					}
					if err != nil {
						return err
					}
					got, err := form(ctx, "/oauth/token", a.Redeem(to.Query().Get("code")))
					if err == nil {
						tokens = got
					}
					return doneOr(err, "invalid_grant") // so is a code; the app begins anew
				},
				refresh,
				refresh,
				func(ctx context.Context) error {
					if tokens == nil {
						return nil
					}
					return insist(ctx, func() error {
						req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/xrpc/com.atproto.server.getSession", nil)
						if err != nil {
							return err
						}
						status, out, err := a.TryDo(fmt.Sprint(tokens["access_token"]), req)
						if err == nil && status != http.StatusOK {
							return &xrpc.Error{Status: status, Name: fmt.Sprint(out["error"])}
						}
						return err
					})
				},
			}
		})
	}
}
