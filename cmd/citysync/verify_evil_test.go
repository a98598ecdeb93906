package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// wrongAt says what must be found: by which check, at which entry, in what words.
type wrongAt struct {
	check string
	entry int64
	what  string
}

func requireWrong(t *testing.T, r verifyResult, want wrongAt) {
	t.Helper()
	require.False(t, r.OK)
	require.True(t, slices.ContainsFunc(r.Wrong, func(w verifyWrong) bool {
		return w.check == want.check && entryOr(w) == want.entry && strings.Contains(w.String(), want.what)
	}), "want %+v, found:\n%s", want, lines(r))
}

// Each evil ledger writes one entry that its rules would never make, signs the log over it and publishes it like any other.
func TestVerifyNamesTheEntryOfAnEvilLog(t *testing.T) {
	t.Parallel()
	for name, evil := range map[string]func(*smallCity) wrongAt{
		"mint over the cap": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindMint, func(e *entry.Entry) { e.Amount, e.Votes = 5000, 5000 })
			return wrongAt{checkLimits, seq, "cap exceeded: "}
		},
		"more than the frozen terms": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindMint, func(e *entry.Entry) { e.Amount, e.Votes = 17, 17 })
			return wrongAt{checkTerms, seq, "its terms give 16"}
		},
		"votes out of nothing": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindMint, func(e *entry.Entry) { e.Votes = 1000 })
			return wrongAt{checkVotes, seq, "1000 votes for 16 credits"}
		},
		"another pay than the record's": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindReserve, func(e *entry.Entry) { e.Reserve.Credits, e.Amount = 15, 30 })
			return wrongAt{checkTerms, seq, "creditsPerCompletion is 16, the entry says 15"}
		},
		"a tier rate that is not the tier's": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindReserve, func(e *entry.Entry) { e.Reserve.TierRate = 9 })
			return wrongAt{checkTerms, seq, "another rate than 9"}
		},
		"a price that the offering does not have": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindEpochOpen, func(e *entry.Entry) { e.EpochOpen.Offerings[0].Credits = 8 })
			return wrongAt{checkEpochs, seq, "creditsPerUnit is 4, the entry says 8"}
		},
		"a cap that does not follow": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindEpochOpen, func(e *entry.Entry) { e.EpochOpen.Cap++ })
			return wrongAt{checkEpochs, seq, "recomputed 1200"}
		},
		"an allocation that does not follow": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindEpochOpen, func(e *entry.Entry) { e.EpochOpen.Allocations[0].Amount-- })
			return wrongAt{checkEpochs, seq, "has 1199, recomputed 1200"}
		},
		"parameters that the city did not set": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindParameters, func(e *entry.Entry) { e.Parameters.VotesPerCredit = 2 })
			return wrongAt{checkEpochs, seq, "votesPerCredit is 1, the entry says 2"}
		},
		"an accreditation that the city did not give": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindBind, func(e *entry.Entry) { e.Bind.ValidUntil = "2040-01-01T00:00:00Z" })
			return wrongAt{checkAccreditation, seq, "validUntil is"}
		},
		"an author who was not accredited that day": func(c *smallCity) wrongAt {
			c.edit(entry.KindBind, func(e *entry.Entry) { e.Bind.ValidUntil = "2027-01-03T08:00:00Z" })
			return wrongAt{checkAccreditation, c.seqOf(entry.KindMint), "was not accredited on 2027-01-04"}
		},
		"revoked although the city's record stands": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindBind, func(e *entry.Entry) { e.Bind.Status = "revoked" })
			return wrongAt{checkAccreditation, seq, "revoked in the log, active in the city's repository"}
		},
		"a mint without a claim": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindMint, func(e *entry.Entry) { e.Nullifier = slices.Repeat([]byte{9}, 32) })
			return wrongAt{checkOneMint, seq, "mint without a claim"}
		},
		"the same claim minted twice": func(c *smallCity) wrongAt {
			e, err := entry.Decode(c.leaves[c.seqOf(entry.KindMint)])
			require.NoError(c.t, err)
			e.Seq, e.Cap.Before = c.size(), 16
			leaf, err := e.Encode()
			require.NoError(c.t, err)
			c.leaves = append(c.leaves, leaf)
			return wrongAt{checkOneMint, e.Seq, "a second mint of one claim"}
		},
		"more burned than minted": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindBurn, func(e *entry.Entry) { e.Burn.Units, e.Amount = 5, 20 })
			return wrongAt{checkSupply, seq, "more burned than minted"}
		},
		"a wrong index": func(c *smallCity) wrongAt {
			c.leaves[4] = c.leaves[5]
			return wrongAt{checkCanonical, 4, "its seq is 5"}
		},
		"a leaf that is none": func(c *smallCity) wrongAt {
			c.leaves[3] = []byte("not an entry")
			return wrongAt{checkCanonical, 3, "bad leaf"}
		},
		"a verification signed by another key, as the entry says itself": func(c *smallCity) wrongAt {
			other, err := atcrypto.GeneratePrivateKeyP256()
			require.NoError(c.t, err)
			did := publicKey(c.t, other).DIDKey()
			seq := c.edit(entry.KindMint, func(e *entry.Entry) { e.Causes[0].Key = did })
			return wrongAt{checkCited, seq, "signed by " + did}
		},
		"a verification signed by another key, as its evidence shows": func(c *smallCity) wrongAt {
			forger := repotest.NewAuthor(c.t, "x")
			forger.DID = c.library.DID
			mint, err := entry.Decode(c.leaves[c.seqOf(entry.KindMint)])
			require.NoError(c.t, err)
			record := c.verification(entry.Cause{URI: mint.Mint.Task.URI, CID: mint.Mint.Task.CID})
			record["createdAt"] = "2027-01-04T18:30:00Z"
			forged := c.put(forger, lexicons.WorkVerification, c.tid(), record)
			forged.Key = c.library.Public().DIDKey()
			seq := c.edit(entry.KindMint, func(e *entry.Entry) { e.Causes[0] = forged })
			return wrongAt{checkCited, seq, "BadSignature"}
		},
		"a verification that nobody can show": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindMint, func(e *entry.Entry) {
				e.Causes[0].CID = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"
			})
			return wrongAt{checkCited, seq, errNoEvidence.Error()}
		},
		"a commit that its author has yet to make": func(c *smallCity) wrongAt {
			later := string(syntax.NewTIDFromTime(repotest.Start.Add(240*time.Hour), 0))
			seq := c.edit(entry.KindMint, func(e *entry.Entry) { e.Causes[0].Rev = later })
			return wrongAt{checkCited, seq, "is later than its author's repository"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newSmallCity(t)
			want := evil(c)
			c.publish()
			r, err := c.verify("")
			require.NoError(t, err)
			requireWrong(t, r, want)
		})
	}
}

// A log that does not serve what it signed.
func TestVerifyNamesTheEntryThatWasTamperedWith(t *testing.T) {
	t.Parallel()
	for name, evil := range map[string]func(*smallCity) wrongAt{
		"one byte flipped": func(c *smallCity) wrongAt {
			seq := c.seqOf(entry.KindMint)
			c.instead[c.bundlePath()] = func(b []byte) []byte {
				leaves, err := tlog.DecodeBundle(slices.Clone(b), int(c.size()))
				require.NoError(c.t, err)
				leaves[seq][100] ^= 1
				out, err := tlog.EncodeBundle(leaves)
				require.NoError(c.t, err)
				return out
			}
			return wrongAt{checkLeaves, seq, "its leaf hashes to"}
		},
		"one leaf dropped from its bundle": func(c *smallCity) wrongAt {
			seq := c.seqOf(entry.KindMint)
			c.instead[c.bundlePath()] = func(b []byte) []byte {
				return without(c.t, b, int(c.size()), int(seq))
			}
			return wrongAt{checkLeaves, seq, "it is dropped"}
		},
		"the last leaf dropped from its bundle": func(c *smallCity) wrongAt {
			c.instead[c.bundlePath()] = func(b []byte) []byte {
				return without(c.t, b, int(c.size()), int(c.size())-1)
			}
			return wrongAt{checkLeaves, c.size() - 1, "does not give it out"}
		},
		"one leaf that the store has no more": func(c *smallCity) wrongAt {
			seq := c.seqOf(entry.KindMint)
			for width := int(seq) + 1; width <= int(c.size()); width++ {
				c.instead["/"+tlog.Tile{Level: tlog.EntriesLevel, Width: width}.Path()] = func([]byte) []byte { return nil }
			}
			return wrongAt{checkLeaves, seq, "does not give it out"}
		},
		"one hash of a tile": func(c *smallCity) wrongAt {
			c.instead["/"+tlog.Tiles(0, c.size())[0].Path()] = func(b []byte) []byte {
				b = slices.Clone(b)
				b[4*32] ^= 1
				return b
			}
			return wrongAt{checkLeaves, 4, "the hash tile has"}
		},
		"a tile that is not there": func(c *smallCity) wrongAt {
			c.instead["/"+tlog.Tiles(0, c.size())[0].Path()] = func([]byte) []byte { return nil }
			return wrongAt{checkLeaves, noEntry, "does not give out tile/0/"}
		},
		"a root of another tree": func(c *smallCity) wrongAt {
			c.instead["/checkpoint"] = func([]byte) []byte { return c.note(c.size(), tlog.Hash{1}) }
			return wrongAt{checkLeaves, noEntry, "the checkpoint's root is"}
		},
		"a checkpoint signed by another key": func(c *smallCity) wrongAt {
			c.instead["/checkpoint"] = func([]byte) []byte {
				skey, _, err := tlog.GenerateKey(strings.NewReader(strings.Repeat("x", 64)), c.ledger.DID.String())
				require.NoError(c.t, err)
				root, err := c.tree(c.size()).Root(c.size())
				require.NoError(c.t, err)
				signed, err := tlog.Sign(tlog.Checkpoint{Origin: c.ledger.DID.String(), Size: c.size(), Root: root}, skey)
				require.NoError(c.t, err)
				return signed
			}
			return wrongAt{checkSignature, noEntry, "bad checkpoint"}
		},
		"a log that went back": func(c *smallCity) wrongAt {
			size := c.seqOf(entry.KindMint)
			root, err := c.tree(size).Root(size)
			require.NoError(c.t, err)
			c.instead["/checkpoint"] = func([]byte) []byte { return c.note(size, root) }
			return wrongAt{checkCheckpoints, noEntry, "the log went back: it had"}
		},
		"a log that was shown otherwise before": func(c *smallCity) wrongAt {
			c.checkpoint = func(size int64, r anyMap) anyMap {
				if size != c.early {
					return r
				}
				root := tlog.Hash{7}
				r["rootHash"], r["note"] = bytesOf(root[:]), string(c.note(c.early, root))
				return r
			}
			return wrongAt{checkCheckpoints, 0, "the log changed between entries 0 and"}
		},
		"a published checkpoint that its note does not bear out": func(c *smallCity) wrongAt {
			c.checkpoint = func(_ int64, r anyMap) anyMap {
				r["rootHash"] = bytesOf(make([]byte, 32))
				return r
			}
			return wrongAt{checkCheckpoints, noEntry, "its note says"}
		},
		"a checkpoint that does not name the one before it": func(c *smallCity) wrongAt {
			c.checkpoint = func(_ int64, r anyMap) anyMap {
				delete(r, "previous")
				return r
			}
			return wrongAt{checkCheckpoints, noEntry, "it does not name at://"}
		},
		"a checkpoint that tells another supply": func(c *smallCity) wrongAt {
			c.checkpoint = func(size int64, r anyMap) anyMap {
				held := int64(0)
				if size == c.size() {
					held = 9 // 16 minted, 8 burned
				}
				r["supply"] = []anyMap{{"book": rulestest.Book, "amount": held}}
				return r
			}
			return wrongAt{checkSupply, noEntry, "it says 9 of standard are held, the entries give 8"}
		},
		"a receipt of another claim": func(c *smallCity) wrongAt {
			seq := c.seqOf(entry.KindMint)
			c.receipt = func(at int64, r anyMap) anyMap {
				if at == seq {
					r["subject"].(anyMap)["value"] = bytesOf(make([]byte, 32))
				}
				return r
			}
			return wrongAt{checkReceipts, seq, "its subject is not the entry's nullifier"}
		},
		"a receipt of an entry that never was": func(c *smallCity) wrongAt {
			seq := c.seqOf(entry.KindMint)
			c.receipt = func(at int64, r anyMap) anyMap {
				if at == seq {
					beyond := maps.Clone(r)
					beyond["seq"] = c.size() + 5
					c.put(c.ledger, lexicons.LedgerReceipt, lexicons.SeqKey(c.size()+5), beyond)
				}
				return r
			}
			return wrongAt{checkReceipts, c.size() + 5, "a receipt of an entry that the log"}
		},
		"a ledger that its own DID places elsewhere": func(c *smallCity) wrongAt {
			c.change(c.ledger, func(op *identity.Operation) {
				op.Services["citysync_ledger"] = identity.Service{Type: "CitySyncLedger", Endpoint: "http://localhost:1"}
			})
			return wrongAt{checkLogKey, noEntry, "has its service at"}
		},
		"a receipt that is not its leaf": func(c *smallCity) wrongAt {
			seq := c.seqOf(entry.KindMint)
			c.receipt = func(at int64, r anyMap) anyMap {
				if at == seq {
					r["amount"] = 17
				}
				return r
			}
			return wrongAt{checkReceipts, seq, "amount is 17, the entry says 16"}
		},
		"a receipt under another leaf's hash": func(c *smallCity) wrongAt {
			seq := c.seqOf(entry.KindBurn)
			c.receipt = func(at int64, r anyMap) anyMap {
				if at == seq {
					r["leafHash"] = bytesOf(make([]byte, 32))
				}
				return r
			}
			return wrongAt{checkReceipts, seq, "its leafHash is"}
		},
		"a receipt that is missing": func(c *smallCity) wrongAt {
			seq := c.seqOf(entry.KindBurn)
			c.receipt = func(at int64, r anyMap) anyMap {
				if at == seq {
					return nil
				}
				return r
			}
			return wrongAt{checkReceipts, seq, "the entry's receipt is missing"}
		},
		"another log key than the city signed": func(c *smallCity) wrongAt {
			c.instead["/.well-known/citysync.json"] = func(b []byte) []byte {
				return []byte(strings.Replace(string(b), c.vkey, strings.Replace(c.vkey, "+", "+0", 1), 1))
			}
			return wrongAt{checkLogKey, noEntry, "the city signed"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newSmallCity(t)
			want := evil(c)
			c.publish()
			r, err := c.verify("")
			require.NoError(t, err)
			requireWrong(t, r, want)
			if want.check == checkLeaves && want.entry != noEntry {
				assert.Len(t, r.Wrong, 1, "what follows from it is not told:\n%s", lines(r))
			}
		})
	}
}

func TestVerifyFindsARecordDeletedSinceInTheEvidence(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.publish()
	mint, err := entry.Decode(c.leaves[c.seqOf(entry.KindMint)])
	require.NoError(t, err)
	u := syntax.ATURI(mint.Causes[0].URI)
	c.library.Commit(repo.Write{Action: repo.Delete, Collection: u.Collection().String(), RKey: u.RecordKey().String()})
	r, err := c.verify("")
	require.NoError(t, err)
	require.Empty(t, lines(r))
	require.True(t, r.OK)
	i := slices.IndexFunc(r.Checks, func(k verifyCheck) bool { return k.Name == checkCited })
	assert.Contains(t, r.Checks[i].Detail, "1 from the evidence")
}

func TestVerifyAcceptsAKeyThatWasGoodThen(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.publish()
	next, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)
	c.rotate(c.library, next)
	c.commit(c.library, repotest.Start.Add(2*time.Hour)) // the repository is under the new key from here on
	r, err := c.verify("")
	require.NoError(t, err)
	require.Empty(t, lines(r))
}

func TestVerifyRefusesAKeyThatWasNotGoodYet(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	next, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)
	seq := c.edit(entry.KindMint, func(e *entry.Entry) { e.Causes[0].Key = publicKey(t, next).DIDKey() })
	c.publish()
	c.rotate(c.library, next)
	c.commit(c.library, repotest.Start.Add(2*time.Hour))
	r, err := c.verify("")
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkCited, seq, "its author's key at"})
}

func TestVerifyReadsALogOfManyTiles(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	for n := range 300 {
		c.world.Must(rules.Activate{
			Now: c.world.Now, Issuer: c.library.DID, Resident: rulestest.Resident(1000 + n), Account: rulestest.Account(1000 + n),
		})
	}
	c.leaves = c.world.Leaves
	c.publish()
	r, err := c.verify("")
	require.NoError(t, err)
	require.Empty(t, lines(r))
	require.True(t, r.OK)

	full := "/" + tlog.Tile{Level: tlog.EntriesLevel, Width: tlog.TileWidth}.Path()
	c.instead = map[string]func([]byte) []byte{
		full:           func(b []byte) []byte { return without(t, b, tlog.TileWidth, 100) },
		c.bundlePath(): func(b []byte) []byte { return without(t, b, int(c.size())-tlog.TileWidth, 7) },
	}
	r, err = c.verify("")
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkLeaves, 100, "it is dropped"})
	requireWrong(t, r, wrongAt{checkLeaves, 263, "it is dropped"})
	require.Len(t, r.Wrong, 2, lines(r))

	c.instead = map[string]func([]byte) []byte{
		"/" + tlog.Tiles(1, c.size())[0].Path(): func(b []byte) []byte { return make([]byte, len(b)) },
	}
	r, err = c.verify("")
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkLeaves, noEntry, "tile/1/000.p/1 does not follow from the tiles below it"})
}

// without is a bundle with one entry left out.
func without(t *testing.T, bundle []byte, width, at int) []byte {
	t.Helper()
	leaves, err := tlog.DecodeBundle(bundle, width)
	require.NoError(t, err)
	out, err := tlog.EncodeBundle(slices.Delete(leaves, at, at+1))
	require.NoError(t, err)
	return out
}

// mintRecord is the verification behind the mint: its address and version.
func (c *smallCity) mintRecord() (syntax.ATURI, string) {
	c.t.Helper()
	mint, err := entry.Decode(c.leaves[c.seqOf(entry.KindMint)])
	require.NoError(c.t, err)
	return syntax.ATURI(mint.Causes[0].URI), mint.Causes[0].CID
}

func TestVerifyRefusesEvidenceUnderAKeyThatCameLater(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.publish()
	next, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)
	u, id := c.mintRecord()
	data := c.library.Blocks[c.library.Paths()[u.Collection().String()+"/"+u.RecordKey().String()]]
	c.library.Commit(repo.Write{Action: repo.Delete, Collection: u.Collection().String(), RKey: u.RecordKey().String()})
	c.rotate(c.library, next)
	c.commit(c.library, repotest.Start.Add(2*time.Hour))

	backdated := repotest.NewAuthor(t, "x")
	backdated.DID, backdated.Key = c.library.DID, next
	done := backdated.Commit(repo.Write{Action: repo.Create, Collection: u.Collection().String(), RKey: u.RecordKey().String(), Record: data})
	c.evidence[id], err = repo.Proof(t.Context(), backdated.Blocks, done.Head, u.Collection().String()+"/"+u.RecordKey().String())
	require.NoError(t, err)
	r, err := c.verify("")
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkCited, c.seqOf(entry.KindMint), "which was not its author's key at"})
}

func TestVerifyRefusesEvidenceOfAnotherVersion(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.publish()
	u, id := c.mintRecord()
	reserve, err := entry.Decode(c.leaves[c.seqOf(entry.KindReserve)])
	require.NoError(t, err)
	c.library.Commit(repo.Write{Action: repo.Delete, Collection: u.Collection().String(), RKey: u.RecordKey().String()})
	record := c.verification(reserve.Causes[0])
	record["createdAt"] = "2027-01-04T19:00:00Z"
	later := c.put(c.library, u.Collection().String(), u.RecordKey().String(), record)
	c.evidence[id] = c.evidence[later.CID]
	r, err := c.verify("")
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkCited, c.seqOf(entry.KindMint), "proves another version"})
}
