package entry

// Kinds of receipts, which are copies of entries for the network.
const (
	ReceiptMint       = "mint"
	ReceiptBurn       = "burn"
	ReceiptExpiry     = "expiry"
	ReceiptAdjustment = "adjustment"
)

// Receipt is the kind of the receipt that an entry makes; none for most.
func (k Kind) Receipt() string {
	switch k {
	case KindMint:
		return ReceiptMint
	case KindBurn, KindCapture:
		return ReceiptBurn
	case KindExpire:
		return ReceiptExpiry
	case KindReverse, KindVoid:
		return ReceiptAdjustment
	}
	return ""
}

// WithReceipt are the kinds of entries that make receipts of a kind; of all kinds where none is named.
func WithReceipt(kind string) []string {
	out := []string{}
	for _, k := range []Kind{KindMint, KindBurn, KindCapture, KindExpire, KindReverse, KindVoid} {
		if kind == "" || k.Receipt() == kind {
			out = append(out, string(k))
		}
	}
	return out
}

// Basis tells which entry a receipt takes its parameters from, and its causes where it has none of its own: the one that is captured,
// voided or reversed. An expiry has the opening of its epoch.
func (e *Entry) Basis() (seq int64, ok bool) {
	switch e.Kind {
	case KindCapture:
		return e.Capture.Hold, true
	case KindVoid:
		return e.Void.Hold, true
	case KindReverse:
		return e.Reverse.Of, true
	}
	return 0, false
}

// ReceiptCauses are the records that the receipt of an entry cites, and its parameter set. basis is nil for a mint or a burn. An expiry
// rests on the parameter set alone.
func (e *Entry) ReceiptCauses(basis *Entry) (causes []Cause, params *Ref) {
	causes, params = e.Causes, e.Params
	if basis == nil {
		return causes, params
	}
	if params == nil {
		params = basis.Params
	}
	switch {
	case len(causes) > 0:
	case len(basis.Causes) > 0:
		causes = basis.Causes
	case params != nil:
		causes = []Cause{{URI: params.URI, CID: params.CID}}
	}
	return causes, params
}
