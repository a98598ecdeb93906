//go:build crash

package crash

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
)

const bindEvery = 100 * time.Millisecond

// desk has the ledger bind tills of one redeemer, one after the other, and remembers each that it answered for. What got no answer it asks
// again with the same idempotency key.
type desk struct {
	pds, ledger, ledgerDID string
	handle, password       string
	access                 string // from the one sign-in
	bound                  []till
}

// till is what the ledger answered, and for which key.
type till struct {
	Seq int64 `json:"seq"`
	key string
}

const bindTill = "org.city-sync.ledger.bindTill"

// run works until ctx ends, which is no error.
func (d *desk) run(ctx context.Context) error {
	tick := time.NewTicker(bindEvery)
	defer tick.Stop()
	for {
		if err := d.one(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("till %d: %w", len(d.bound), err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (d *desk) one(ctx context.Context) error {
	private, err := atcrypto.GeneratePrivateKeyP256()
	if err != nil {
		return err
	}
	public, err := private.PublicKey()
	if err != nil {
		return err
	}
	got := till{key: public.DIDKey()}
	ledger := &xrpc.Client{Base: d.ledger, Auth: d.serviceToken}
	in := map[string]any{"label": "a till", "key": got.key, "pin": "246810", "idempotencyKey": rand.Text()}
	for {
		err := ledger.Procedure(ctx, bindTill, in, &got)
		if err == nil {
			d.bound = append(d.bound, got)
			return nil
		}
		if !away(err) {
			return err
		}
		if wait(ctx) != nil {
			return ctx.Err()
		}
	}
}

func (d *desk) serviceToken(ctx context.Context, method string) (string, error) {
	if d.access == "" {
		var session struct {
			Access string `json:"accessJwt"`
		}
		in := map[string]string{"identifier": d.handle, "password": d.password}
		if err := (&xrpc.Client{Base: d.pds}).Procedure(ctx, "com.atproto.server.createSession", in, &session); err != nil {
			return "", err
		}
		d.access = session.Access
	}
	signed := &xrpc.Client{Base: d.pds, Auth: func(context.Context, string) (string, error) { return "Bearer " + d.access, nil }}
	var out struct {
		Token string `json:"token"`
	}
	err := signed.Query(ctx, "com.atproto.server.getServiceAuth", url.Values{"aud": {d.ledgerDID}, "lxm": {method}}, &out)
	return "Bearer " + out.Token, err
}

// check looks for everything that was acknowledged in the log as it is now.
func (d *desk) check(t *testing.T, tills map[string][]int64) {
	t.Helper()
	require.NotEmpty(t, d.bound)
	for _, b := range d.bound {
		assert.Equal(t, []int64{b.Seq}, tills[b.key], "entries that bind till %s, acknowledged as %d", b.key, b.Seq)
	}
}
