//go:build bench

package ledger

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

const benchTokens = 6000 // of a measurement; none is taken twice

// tokenRates is how many service tokens a second are verified on all processors, which is before anything reaches the sequencer, beside
// bare signature checks on one; and how many where each token's id is kept in the database, as the ledger does.
func (c *rated) tokenRates(round int) {
	c.t.Helper()
	for name, generate := range map[string]func() (atcrypto.PrivateKey, error){
		"ES256K": func() (atcrypto.PrivateKey, error) { return atcrypto.GeneratePrivateKeyK256() },
		"ES256":  func() (atcrypto.PrivateKey, error) { return atcrypto.GeneratePrivateKeyP256() },
	} {
		key, err := generate()
		require.NoError(c.t, err)
		pub, err := key.PublicKey()
		require.NoError(c.t, err)
		did := syntax.DID(fmt.Sprintf("did:plc:bearer%s%d", name, round))
		c.dir.Insert(identity.Identity{DID: did, Keys: map[string]identity.VerificationMethod{
			"atproto": {Type: "Multikey", PublicKeyMultibase: pub.Multibase()},
		}})
		measured("tokens/"+name, c.tokens(did, key, &usedInMemory{used: map[string]bool{}}), bareChecks(c, key, pub))
		if name == "ES256K" {
			measured("tokens/kept", c.tokens(did, key, pg.NewReplay(c.world.pool)), bareChecks(c, key, pub))
		}
	}
}

// tokens a second are verified on all processors.
func (c *rated) tokens(did syntax.DID, key atcrypto.PrivateKey, used xrpc.Replay) float64 {
	c.t.Helper()
	const method = "org.city-sync.ledger.createRedemption"
	auth := xrpc.NewServiceAuth(xrpc.ServiceAuthConfig{Directory: c.dir, Audience: []string{c.cfg.DID.String()}, Replay: used, Clock: c.clock})
	tokens := make([]string, benchTokens)
	for i := range tokens {
		var err error
		tokens[i], err = xrpc.SignServiceToken(key, did.String(), c.cfg.DID.String(), method, c.clock.Now(), time.Minute)
		require.NoError(c.t, err)
	}
	callers := runtime.GOMAXPROCS(0)
	var g errgroup.Group
	start := time.Now()
	for caller := range callers {
		g.Go(func() error {
			for i := caller; i < len(tokens); i += callers {
				if _, err := auth.Verify(c.ctx, tokens[i], method); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(c.t, g.Wait())
	return float64(len(tokens)) / time.Since(start).Seconds()
}

// bareChecks a second are what one processor does.
func bareChecks(c *rated, key atcrypto.PrivateKey, pub atcrypto.PublicKey) float64 {
	c.t.Helper()
	text := []byte("what is signed")
	sig, err := key.HashAndSign(text)
	require.NoError(c.t, err)
	const n = 2000
	start := time.Now()
	for range n {
		require.NoError(c.t, pub.HashAndVerify(text, sig))
	}
	return n / time.Since(start).Seconds()
}

type usedInMemory struct {
	mu   sync.Mutex
	used map[string]bool
}

// Use implements xrpc.Replay.
func (u *usedInMemory) Use(_ context.Context, key string, _ time.Time) (fresh bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	fresh = !u.used[key]
	u.used[key] = true
	return fresh, nil
}
