package logtest

import (
	"bytes"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// The town's organizations and records.
const (
	City    = "did:plc:cccccccccccccccccccccccc"
	Library = syntax.DID("did:plc:aaaaaaaaaaaaaaaaaaaaaaaa")
	Museum  = syntax.DID("did:plc:mmmmmmmmmmmmmmmmmmmmmmmm")

	Book     = "std"
	Epoch    = "e2027-01"
	Task     = "at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/org.city-sync.work.task/3mcx5l2w5ss2t"
	Offering = "at://did:plc:mmmmmmmmmmmmmmmmmmmmmmmm/org.city-sync.offer.offering/3mcx5l2w5ss2o"
	CID      = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"
)

// Town is a log's story with an entry of every kind, and where to find them.
type Town struct {
	*Log
	Seq map[string]int64
}

// The sums of the story's epoch.
const (
	Reserved = 320
	Minted   = 64 + 48 - 8
	Burned   = 5 + 10
	Held     = 6
	Expired  = 4
	Supply   = Minted - Burned - Expired
)

func ref(uri string) entry.Ref { return entry.Ref{URI: uri, CID: CID} }

func cause(uri string) []entry.Cause {
	return []entry.Cause{{URI: uri, CID: CID, Rev: "3mcx5l2w5ss2r"}}
}

func secret(n byte) *entry.Commitment {
	return &entry.Commitment{Value: bytes.Repeat([]byte{n}, 32), Padded: 8}
}

// Month gives the town's review months: four weeks each.
func Month(n int) entry.Month {
	bounds := []string{"2027-01-04T08:00:00Z", "2027-02-01T08:00:00Z", "2027-03-01T08:00:00Z", "2027-03-29T07:00:00Z"}
	return entry.Month{StartsAt: bounds[n], EndsAt: bounds[n+1]}
}

// Tell writes the story. Its epoch stays open, in its second month; Close ends it.
func Tell(l *Log) *Town {
	t := &Town{Log: l, Seq: map[string]int64{}}
	const at = "2027-01-04T08:00:00Z"
	params := ref("at://" + City + "/org.city-sync.gov.parameterSet/3mcx5l2w5ss2p")
	resolution := "at://" + City + "/org.city-sync.gov.resolution/"
	common := func(k entry.Kind, org syntax.DID, amount int64) entry.Entry {
		return entry.Entry{Kind: k, Epoch: Epoch, Book: Book, Org: org, Amount: amount}
	}
	add := func(name string, e entry.Entry) int64 {
		t.Seq[name] = l.Add(e)
		return t.Seq[name]
	}
	add("rulesVersion", entry.Entry{Kind: entry.KindRulesVersion, At: at, RulesVersion: &entry.RulesVersion{Version: 2}})
	add("parameters", entry.Entry{Kind: entry.KindParameters, At: at, Causes: cause(params.URI), Params: &params, Parameters: &entry.Parameters{
		EffectiveEpoch: Epoch, Epochs: []entry.EpochPlan{{Key: Epoch, StartsAt: Month(0).StartsAt, EndsAt: Month(2).EndsAt, TZ: "America/Los_Angeles",
			Months: []entry.Month{Month(0), Month(1), Month(2)}, Phase: entry.PhaseSteady}},
		CapPolicy: entry.CapPolicy{CapPhaseBps: 5000, CapShareBps: 7000, AscrMaxMilli: 4000, DeltaCapBps: 100, RStartBps: 1500, DeltaStartBps: 300},
		Tiers:     []entry.Tier{{N: 1, CreditsPerHour: 8}}, DormancyMonths: 12, WarmUpMonths: 1, ClaimLimit: 5, ClaimLapseDays: 14, VotesPerCredit: 1, KMin: 10}})
	for _, org := range []syntax.DID{Library, Museum} {
		add("role", entry.Entry{Kind: entry.KindBind, At: at, Org: org, Causes: cause("at://" + City + "/org.city-sync.registry.accreditation/" + org.String()),
			Bind: &entry.Bind{What: entry.BindRole, Roles: []string{"issuer"}, Status: "active", ValidFrom: at}})
	}
	add("till", entry.Entry{Kind: entry.KindBind, At: at, Org: Museum, Bind: &entry.Bind{What: entry.BindTill, Till: "till1", Key: "did:key:zTill"}})
	add("staff", entry.Entry{Kind: entry.KindBind, Commitment: secret(1), Bind: &entry.Bind{What: entry.BindStaff}})
	open := common(entry.KindEpochOpen, "", 0)
	open.At, open.Params = at, &params
	open.EpochOpen = &entry.EpochOpen{StartsAt: Month(0).StartsAt, EndsAt: Month(2).EndsAt, TZ: "America/Los_Angeles",
		Months: []entry.Month{Month(0), Month(1), Month(2)}, Phase: entry.PhaseSteady,
		Offerings: []entry.CountedOffering{{URI: Offering, CID: CID, DID: Museum, Units: 40, Credits: 5}},
		Capacity:  200, R: entry.Ratio{Num: 15, Den: 100}, Delta: entry.Ratio{Num: 3, Den: 100}, ShareBound: 448, BackBound: 384, Cap: 384,
		BoundBy: entry.BoundByBacklog, Allocations: []entry.Allocation{{DID: Library, Amount: 384}}}
	add("epochOpen", open)
	reserve := common(entry.KindReserve, Library, Reserved)
	reserve.At, reserve.Params, reserve.Causes, reserve.Cap = at, &params, cause(Task), &entry.CapState{Cap: 384}
	reserve.Reserve = &entry.Reserve{Task: ref(Task), First: Task, Entry: ref("at://" + City + "/org.city-sync.catalog.entry/3mcx5l2w5ss2e"),
		Shifts:  []entry.Shift{{ID: "s1", StartsAt: "2027-01-09T18:00:00Z", EndsAt: "2027-01-09T20:00:00Z", Slots: 5}},
		Credits: 64, Tier: 1, TierRate: 8, Level: 2, Sensitivity: entry.SensitivityPseudonymous, ClaimOpensAt: at}
	add("reserve", reserve)
	add("activate", entry.Entry{Kind: entry.KindActivate, Org: Library, Commitment: secret(2)})
	mint := func(name string, n byte, amount int64) int64 {
		token := bytes.Repeat([]byte{n}, 32)
		claim := common(entry.KindClaim, Library, 0)
		claim.Nullifier, claim.Commitment, claim.Claim = token, secret(n), &entry.Claim{Task: ref(Task), First: Task, Shift: "s1"}
		add("claim", claim)
		m := common(entry.KindMint, Library, amount)
		m.Votes, m.Params, m.Nullifier, m.Commitment = amount, &params, token, secret(n+1)
		m.Causes = cause(fmt.Sprintf("at://%s/org.city-sync.work.verification/3mcx5l2w5ss%d", Library, n))
		m.Cap = &entry.CapState{Cap: 384}
		m.Mint = &entry.Mint{Task: ref(Task), First: Task, Shift: "s1", Verifier: Library, Outcome: entry.OutcomeApproved, Frozen: 64, Level: 2,
			Methods: []string{"org.city-sync.defs#methodAttestation"}}
		return add(name, m)
	}
	mint("mint", 20, 64)
	t.rest(mint("corrected", 30, 48), params, resolution)
	return t
}

func (t *Town) rest(corrected int64, params entry.Ref, resolution string) {
	const at = "2027-01-12T10:00:00Z"
	common := func(k entry.Kind, org syntax.DID, amount int64) entry.Entry {
		return entry.Entry{Kind: k, Epoch: Epoch, Book: Book, Org: org, Amount: amount}
	}
	add := func(name string, e entry.Entry) int64 {
		t.Seq[name] = t.Add(e)
		return t.Seq[name]
	}
	unclaim := common(entry.KindUnclaim, Library, 0)
	unclaim.Nullifier, unclaim.Unclaim = bytes.Repeat([]byte{40}, 32), &entry.Unclaim{First: Task, Shift: "s1", Reason: entry.UnclaimLapsed}
	add("unclaim", unclaim)
	release := common(entry.KindRelease, Library, 64)
	release.At, release.Release = at, &entry.Release{First: Task, Reason: entry.ReleaseExpired, Shifts: []string{"s1"}}
	add("release", release)
	burn := func(name string, amount int64) int64 {
		b := common(entry.KindBurn, Museum, amount)
		b.Params, b.Causes, b.Commitment = &params, cause(Offering), secret(50)
		b.Burn = &entry.Burn{Offering: ref(Offering), Units: amount / 5, Price: 5, UnitsMonth: 40, Till: "till1"}
		return add(name, b)
	}
	burn("burn", 5)
	undone := common(entry.KindReverse, Museum, 15)
	undone.Reverse = &entry.Reverse{Of: burn("refused", 15), What: entry.KindBurn, Reason: entry.ReverseRefused, Till: "till1"}
	add("reverseBurn", undone)
	hold := func(name string, amount int64) int64 {
		h := common(entry.KindHold, Museum, amount)
		h.Params, h.Causes, h.Commitment = &params, cause(Offering), secret(60)
		h.Hold = &entry.Hold{Offering: ref(Offering), Units: 2, Price: 5, UnitsMonth: 40, Till: "till1", Until: "2027-01-14"}
		return add(name, h)
	}
	capture := common(entry.KindCapture, Museum, 10)
	capture.Params, capture.Causes, capture.Commitment = &params, cause(Offering), secret(61)
	capture.Capture = &entry.Capture{Hold: hold("hold", 10), Till: "till1"}
	add("capture", capture)
	void := common(entry.KindVoid, Museum, 8)
	void.Void = &entry.Void{Hold: hold("voided", 8), Reason: entry.VoidExpired}
	add("void", void)
	hold("standing", Held)
	less := common(entry.KindReverse, Library, 8)
	less.Nullifier = bytes.Repeat([]byte{30}, 32)
	less.Votes, less.Causes = 8, cause(resolution+"e7ef6vaq4xzu6s5yxnzjyiexmp")
	less.Reverse = &entry.Reverse{Of: corrected, What: entry.KindMint, Reason: entry.ReverseCorrected, Short: 4}
	add("reverseMint", less)
	t.pauses(resolution)
	dormant := common(entry.KindDormant, "", 9)
	dormant.Day, dormant.Params = "2027-02-01", &params
	dormant.Dormant = &entry.Dormant{StartsAt: Month(0).StartsAt, EndsAt: Month(0).EndsAt, Issued: Minted, Burned: Burned, Active: Minted - Burned - 9, Dormant: 9}
	add("dormant", dormant)
	expire := common(entry.KindExpire, "", Expired)
	expire.Day, expire.Expire = "2027-02-01", &entry.Expire{Reason: entry.ExpireErased}
	add("expire", expire)
	add("stateDigest", entry.Entry{Kind: entry.KindStateDigest, At: at, Commitment: secret(70), StateDigest: &entry.StateDigest{
		Digest: bytes.Repeat([]byte{7}, 32), Balances: []entry.BalancesRoot{{Book: Book, Root: bytes.Repeat([]byte{8}, 32), Sum: Supply, Height: 4}}}})
}

func (t *Town) pauses(resolution string) {
	pause := func(name string, org syntax.DID, p entry.Pause, why string) {
		t.Seq[name] = t.Add(entry.Entry{Kind: entry.KindPause, At: "2027-01-12T10:00:00Z", Org: org, Causes: cause(why), Pause: &p})
	}
	pause("pauseTask", Library, entry.Pause{What: entry.PauseTask, Subject: Task, Reason: "It names a paid post that ended."}, resolution+"e7ef6vaq4xzu6s5yxnzjyiexmp-hold")
	t.Seq["resumeTask"] = t.Add(entry.Entry{Kind: entry.KindResume, At: "2027-01-12T10:00:00Z", Org: Library, Causes: cause(resolution + "e7ef6vaq4xzu6s5yxnzjyiexmp"),
		Resume: &entry.Resume{What: entry.PauseTask, Subject: Task, Reason: "dismissed"}})
	pause("pauseOffering", Museum, entry.Pause{What: entry.PauseOffering, Subject: Offering, Until: Month(2).EndsAt, Reason: "The hall is closed for repairs."},
		"at://"+Museum.String()+"/org.city-sync.offer.offeringStatus/3mcx5l2w5ss2o")
	pause("pauseMints", "", entry.Pause{What: entry.PauseMints, Until: "2027-01-20T08:00:00Z", Reason: "A key was lost."},
		"at://"+City+"/org.city-sync.gov.decision/founding")
}

// Close ends the story's epoch: two more months without a flow, then the closing.
func (t *Town) Close() {
	params := ref("at://" + City + "/org.city-sync.gov.parameterSet/3mcx5l2w5ss2p")
	months := []entry.MonthFlow{{Issued: Minted, Burned: Burned, Quiet: 9, Active: Minted - Burned - 9, Dormant: 9}}
	for n := 1; n <= 2; n++ {
		flow := entry.MonthFlow{Active: Minted - Burned - 9, Dormant: 9 - Expired}
		if n == 1 {
			flow.Expired = Expired
		}
		months = append(months, flow)
		t.Seq[fmt.Sprint("dormant", n)] = t.Add(entry.Entry{Kind: entry.KindDormant, Day: Month(n).EndsAt[:10], Epoch: Epoch, Book: Book, Params: &params,
			Dormant: &entry.Dormant{Month: int64(n), StartsAt: Month(n).StartsAt, EndsAt: Month(n).EndsAt, Expired: flow.Expired, Active: flow.Active, Dormant: flow.Dormant}})
	}
	t.Seq["epochClose"] = t.Add(entry.Entry{Kind: entry.KindEpochClose, At: Month(2).EndsAt, Day: Month(2).EndsAt[:10], Epoch: Epoch, Book: Book, Params: &params,
		EpochClose: &entry.EpochClose{Months: months, Reserved: Reserved, Minted: Minted, Votes: Minted, Measured: true, R: entry.Ratio{Num: 15, Den: 104}, Delta: entry.Ratio{Num: 9, Den: 104},
			Next: &entry.NextCap{Epoch: "e2027-02", Phase: entry.PhaseSteady, Capacity: 200, ShareBound: 448, BackBound: 384, Cap: 384, BoundBy: entry.BoundByBacklog}}})
}

// Hold pauses the story's task again.
func (t *Town) Hold() {
	t.Seq["pauseAgain"] = t.Add(entry.Entry{Kind: entry.KindPause, At: "2027-01-12T10:00:00Z", Org: Library,
		Causes: cause("at://" + City + "/org.city-sync.gov.resolution/e7ef6vaq4xzu6s5yxnzjyiexmq-hold"),
		Pause:  &entry.Pause{What: entry.PauseTask, Subject: Task, Reason: "Another objection."}})
}
