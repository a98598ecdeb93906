package main

import (
	"bytes"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/tlog"
)

// logKeys are the signing and the verifying key of the ledger's log, made of a seed
// kept as a secret. The key's name is the log's origin, the ledger's DID.
func logKeys(origin syntax.DID, seed []byte) (skey, vkey string, err error) {
	return tlog.GenerateKey(bytes.NewReader(seed), origin.String())
}
