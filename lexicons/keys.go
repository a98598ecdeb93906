package lexicons

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strconv"
	"strings"
)

// keyLength is 26 characters of base32: 130 bits of the hash.
const keyLength = 26

var keyEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Key derives a record key from what the record is about, so that the
// repository itself allows one such record only: the first 26 characters of
// the lower-case base32 of SHA-256(nsid ‖ "\n" ‖ parts joined by "\n"). The
// nsid is that of the record being keyed; URIs in parts carry a DID.
func Key(nsid string, parts ...string) string {
	sum := sha256.Sum256([]byte(nsid + "\n" + strings.Join(parts, "\n")))
	return keyEncoding.EncodeToString(sum[:])[:keyLength]
}

// ClaimKey is the key of a claim, and of its proof.
func ClaimKey(taskURI, shiftID string) string { return Key(WorkClaim, taskURI, shiftID) }

// AccreditationKey is the DID of the organization, or its hash where the DID
// holds a percent sign, which record keys may not.
func AccreditationKey(org string) string {
	if strings.Contains(org, "%") {
		return Key(RegistryAccreditation, org)
	}
	return org
}

// ReviewKey is the key of a review; subject is a DID or a record's URI.
func ReviewKey(subject string) string { return Key(WorkReview, subject) }

// ResponseKey is the key of the answer to a review.
func ResponseKey(reviewURI string) string { return Key(WorkResponse, reviewURI) }

// FoundingDecision is the key of the one decision that has no proposal.
const FoundingDecision = "founding"

// DecisionKey is the key of the decision on a proposal.
func DecisionKey(proposalURI string) string { return Key(GovDecision, proposalURI) }

// AdmissionSuffix ends the key of the resolution that says whether a dispute is heard.
const AdmissionSuffix = "-hold"

// ResolutionKey is the key of the ruling on a dispute.
func ResolutionKey(disputeURI string) string { return Key(GovResolution, disputeURI) }

// ReportKey is the key of an epoch's report. One that supersedes another ends in -r2, its successor in -r3.
func ReportKey(book, epoch, supersedes string) string {
	key := book + "-" + epoch
	if supersedes == "" {
		return key
	}
	n := int64(1)
	if _, last, ok := strings.Cut(rkeyOf(supersedes), key+"-r"); ok {
		if had, err := strconv.ParseInt(last, 10, 32); err == nil {
			n = had
		}
	}
	return fmt.Sprintf("%s-r%d", key, n+1)
}

// SeqKey is the key of a receipt (its index in the log) or of a checkpoint
// (its tree size): 12 digits, so that keys sort as numbers do.
func SeqKey(n int64) string { return fmt.Sprintf("%012d", n) }

// derivedKeys gives, for records whose key follows from their content, the
// one key they may have. The functions run after the schema was checked.
var derivedKeys = map[string]func(rec map[string]any) string{
	RegistryAccreditation: func(r map[string]any) string { return AccreditationKey(str(r, "org")) },
	CatalogEntryStatus:    func(r map[string]any) string { return rkeyOf(str(r, "entry", "uri")) },
	WorkTaskStatus:        func(r map[string]any) string { return rkeyOf(str(r, "task", "uri")) },
	WorkClaim:             func(r map[string]any) string { return ClaimKey(str(r, "task", "uri"), str(r, "shiftId")) },
	WorkProof:             func(r map[string]any) string { return rkeyOf(str(r, "claim", "uri")) },
	WorkResponse:          func(r map[string]any) string { return ResponseKey(str(r, "review", "uri")) },
	WorkReview: func(r map[string]any) string {
		if uri := str(r, "subject", "ref", "uri"); uri != "" {
			return ReviewKey(uri)
		}
		return ReviewKey(str(r, "subject", "did"))
	},
	OfferOfferingStatus: func(r map[string]any) string { return rkeyOf(str(r, "offering", "uri")) },
	OfferRedemption:     func(r map[string]any) string { return rkeyOf(str(r, "receipt", "uri")) },
	LedgerReceipt:       func(r map[string]any) string { return SeqKey(integer(r, "seq")) },
	LedgerCosignature:   func(r map[string]any) string { return rkeyOf(str(r, "checkpoint", "uri")) },
	LedgerEpochReport: func(r map[string]any) string {
		return ReportKey(str(r, "book"), str(r, "epoch"), str(r, "supersedes", "uri"))
	},
	GovResolution: func(r map[string]any) string {
		key := ResolutionKey(str(r, "dispute", "uri"))
		if result := str(r, "result"); result == "admitted" || result == "not-admitted" {
			return key + AdmissionSuffix
		}
		return key
	},
	LedgerCheckpoint: func(r map[string]any) string { return SeqKey(integer(r, "treeSize")) },
	GovDecision: func(r map[string]any) string {
		if uri := str(r, "proposal", "uri"); uri != "" {
			return DecisionKey(uri)
		}
		return FoundingDecision
	},
}

// rkeyOf is the record key of an at-uri of a record.
func rkeyOf(uri string) string { return uri[strings.LastIndexByte(uri, '/')+1:] }

// str follows a path of objects to a string; empty where there is none.
func str(v map[string]any, path ...string) string {
	s, _ := at(v, path...).(string)
	return s
}

// integer follows a path of objects to an integer; 0 where there is none.
func integer(v map[string]any, path ...string) int64 {
	n, _ := at(v, path...).(int64)
	return n
}

func at(v map[string]any, path ...string) any {
	var cur any = v
	for _, name := range path {
		m, ok := cur.(map[string]any)
		if !ok {
			return nil
		}
		cur = m[name]
	}
	return cur
}
