package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/witness"
)

// signedBy gives a checkpoint of a log of one leaf.
func signedBy(t *testing.T, skey, leaf string) (string, []byte) {
	t.Helper()
	tree := new(tlog.Tree)
	require.NoError(t, tree.Append([]byte(leaf)))
	root, err := tree.Root(1)
	require.NoError(t, err)
	signed, err := tlog.Sign(tlog.Checkpoint{Origin: "did:plc:log", Size: 1, Root: root}, skey)
	require.NoError(t, err)
	return string(signed), root[:]
}

func TestVerifyNamesWhatAProofShows(t *testing.T) {
	t.Parallel()
	skey, vkey, err := tlog.GenerateKey(strings.NewReader(strings.Repeat("a", 32)), "did:plc:log")
	require.NoError(t, err)
	_, other, err := tlog.GenerateKey(strings.NewReader(strings.Repeat("b", 32)), "did:plc:log")
	require.NoError(t, err)
	one, rootOne := signedBy(t, skey, "one")
	two, rootTwo := signedBy(t, skey, "two")
	fork := &witness.Proof{
		Kind: witness.ProofFork, Origin: "did:plc:log", LogKeys: []string{vkey}, Size: 1,
		A: &witness.Side{Checkpoint: one, Root: rootOne}, B: &witness.Side{Checkpoint: two, Root: rootTwo},
	}
	same := *fork
	same.B = same.A
	noEntry := &witness.Proof{Kind: witness.ProofEntry, Origin: "did:plc:log", LogKeys: []string{vkey}, Leaf: []byte("one"), Checkpoint: one}
	for name, tt := range map[string]struct {
		proof *witness.Proof
		args  []string
		code  int
		says  string
	}{
		"a fork":                {fork, nil, exitWrong, "signed two histories"},
		"under the city's key":  {fork, []string{"--vkey", vkey}, exitWrong, "disagree on the first 1"},
		"under another key":     {fork, []string{"--vkey", other}, exitCouldNot, ""},
		"the same twice":        {&same, nil, exitCouldNot, ""},
		"a leaf that is no one": {noEntry, nil, exitWrong, "entry 0"},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := json.Marshal(tt.proof)
			require.NoError(t, err)
			file := filepath.Join(t.TempDir(), "proof.json")
			require.NoError(t, os.WriteFile(file, raw, 0o600))
			var out bytes.Buffer
			err = verifyCommand(streams{&out, &out}).Run(context.Background(), append([]string{"verify", "--proof", file}, tt.args...))
			var code *exitCode
			require.True(t, errors.As(err, &code), "%v", err)
			require.Equal(t, tt.code, code.code, "%v", err)
			require.Contains(t, out.String(), tt.says)
		})
	}
}
