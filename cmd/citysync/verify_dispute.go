package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/witness"
)

// verifyDispute checks a proof that a witness keeps of a log that broke its word. It needs no network: what counts is what the log's
// own key signed. The exit code of a proof that holds is that of a city where something is wrong.
func verifyDispute(_ context.Context, s streams, file, copyFolder string, vkeys []string, asJSON bool) error {
	raw, err := readBounded(file, witness.MaxProof)
	if err != nil {
		return &exitCode{exitCouldNot, err}
	}
	p, err := witness.ReadProof(raw)
	if err != nil {
		return &exitCode{exitCouldNot, err}
	}
	own := len(vkeys) > 0
	if !own {
		vkeys = p.LogKeys
	}
	var before func(int64) ([]byte, error)
	if copyFolder != "" {
		before = func(seq int64) ([]byte, error) { return leafOf(copyFolder, seq) }
	}
	verdict, err := p.Check(vkeys, before)
	if err != nil {
		return &exitCode{exitCouldNot, err}
	}
	if asJSON {
		out := map[string]any{"kind": verdict.Kind, "what": verdict.What, "origin": p.Origin, "witness": p.Witness, "logKeys": vkeys, "ownKeys": own}
		if verdict.Entry >= 0 {
			out["entry"] = verdict.Entry
		}
		if err := json.NewEncoder(s.out).Encode(out); err != nil {
			return &exitCode{exitCouldNot, err}
		}
	} else {
		fmt.Fprintf(s.out, "WRONG  %s\nlog    %s\n", clean(verdict.What, maxText), clean(p.Origin, maxText))
		if !own {
			fmt.Fprintf(s.out, "       under the keys that the proof itself names: give --vkey as the city publishes it\n")
		}
	}
	return &exitCode{exitWrong, nil}
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(raw)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return raw, err
}

// leafOf reads one entry of a log's copy in a folder.
func leafOf(folder string, seq int64) ([]byte, error) {
	n, at := seq/tlog.TileWidth, int(seq%tlog.TileWidth)
	for width := at + 1; width <= tlog.TileWidth; width++ {
		path := tlog.Tile{Level: tlog.EntriesLevel, N: n, Width: width}.Path()
		raw, err := readBounded(filepath.Join(folder, filepath.FromSlash(path)), tlog.MaxBundle)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list, err := tlog.DecodeBundle(raw, width)
		if err != nil {
			return nil, err
		}
		return list[at], nil
	}
	return nil, fmt.Errorf("%s has no entry %d", folder, seq)
}
