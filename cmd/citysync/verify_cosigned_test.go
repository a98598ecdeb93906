package main

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
)

// witnessed gives a city a policy of one witness, and what the ledger then serves.
func witnessed(t *testing.T) (c *smallCity, policy string, w *tlog.Cosigner) {
	t.Helper()
	c = newSmallCity(t)
	w, err := tlog.NewCosigner(strings.NewReader(strings.Repeat("w", 32)), "library.example")
	require.NoError(t, err)
	policy = fmt.Sprintf("log %s\nwitness lib %s\ngroup issuers any lib\nquorum issuers\n", c.vkey, w.VerifierKey())
	c.world.Must(rules.BindWitnesses{
		Now: c.world.Now, Policy: sha256.Sum256([]byte(policy)), Witnesses: []rules.Witness{{Org: c.library.DID, Key: w.VerifierKey(), Class: "issuers"}},
	})
	c.leaves = c.world.Leaves
	c.instead["/policy"] = func([]byte) []byte { return []byte(policy) }
	return c, policy, w
}

// cosigned serves a checkpoint under the witness's signature.
func (c *smallCity) cosigned(w *tlog.Cosigner, signed []byte) {
	c.t.Helper()
	text, err := tlog.NoteText(signed)
	require.NoError(c.t, err)
	line, err := w.Cosign(text, c.world.Now)
	require.NoError(c.t, err)
	both, err := tlog.AddLines(signed, line)
	require.NoError(c.t, err)
	c.instead["/checkpoint/cosigned"] = func([]byte) []byte { return both }
}

func TestVerifyChecksTheQuorumOfAPolicy(t *testing.T) {
	t.Parallel()
	c, _, w := witnessed(t)
	c.publish()
	root, err := c.tree(c.size()).Root(c.size())
	require.NoError(t, err)
	c.cosigned(w, c.note(c.size(), root))
	r, err := c.verify("")
	require.NoError(t, err)
	require.Empty(t, lines(r))
	for _, check := range r.Checks {
		if check.Name == checkCosigned {
			assert.EqualValues(t, 1, check.Count)
			assert.Contains(t, check.Detail, "by lib: a quorum")
		}
	}
}

func TestVerifyNamesCosignaturesThatDoNotHold(t *testing.T) {
	t.Parallel()
	for name, evil := range map[string]struct {
		what string
		do   func(c *smallCity, policy string, w *tlog.Cosigner)
	}{
		"a fork that a quorum saw": {"a quorum cosigned root", func(c *smallCity, _ string, w *tlog.Cosigner) {
			c.cosigned(w, c.note(c.size(), tlog.Hash{3}))
		}},
		"no quorum": {"which are no quorum", func(c *smallCity, _ string, _ *tlog.Cosigner) {
			root, err := c.tree(c.size()).Root(c.size())
			require.NoError(c.t, err)
			signed := c.note(c.size(), root)
			c.instead["/checkpoint/cosigned"] = func([]byte) []byte { return signed }
		}},
		"another policy": {"the policy given out is", func(c *smallCity, policy string, _ *tlog.Cosigner) {
			c.instead["/policy"] = func([]byte) []byte { return []byte(policy + "# so\n") }
		}},
		"no policy given out": {"does not give it out", func(c *smallCity, _ string, _ *tlog.Cosigner) { delete(c.instead, "/policy") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, policy, w := witnessed(t)
			c.publish()
			evil.do(c, policy, w)
			r, err := c.verify("")
			require.NoError(t, err)
			requireWrong(t, r, wrongAt{checkCosigned, noEntry, evil.what})
		})
	}
}
