package pages

// consentPhrases are those of the consent page.
var consentPhrases = map[string]words{}
