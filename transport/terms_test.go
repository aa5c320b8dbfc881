package transport

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// These bits are unknown to all programs, as a later version's bits would be.
const (
	optionalBit Features = 1 << 3
	requiredBit Features = 1 << 40
)

// TestAgreement: a source and its destination come to the same result from what one offers and the
// other knows.
func TestAgreement(t *testing.T) {
	for name, test := range map[string]struct {
		offered, known Features
		inForce        Features
		refused        string
	}{
		"neither has any":             {},
		"only the source has some":    {offered: optionalBit | 1},
		"only the destination does":   {known: optionalBit | requiredBit},
		"both have one":               {optionalBit | 1, optionalBit | 2, optionalBit, ""},
		"a required one, known":       {requiredBit, requiredBit | 1, requiredBit, ""},
		"a required one, unknown":     {requiredBit | 1, 1, 0, "the source needs bit 40,"},
		"several, one of them known":  {3 << 62, 1 << 62, 0, "the source needs bit 63,"},
		"the lowest that is required": {1 << 32, 1, 0, "the source needs bit 32,"},
		"the highest that is not":     {1 << 31, 0, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := Hello{Purpose: PurposeMigrate, Features: test.offered, Version: Version}
			requireSaysTheSame(t, h)
			requireAgreement(t, h, test.known)
			terms, err := h.Agree(test.known)
			if test.refused != "" {
				require.ErrorIs(t, err, ErrFeature)
				require.ErrorContains(t, err, test.refused)
				require.NotContains(t, err.Error(), "\n")
				return
			}
			require.NoError(t, err)
			require.Equal(t, Terms{Version, test.inForce}, terms)
		})
	}
}

// TestOldDestination leaves out the bits that it does not know, even those that the source
// requires, so the source must check.
func TestOldDestination(t *testing.T) {
	answer := func(chosen Features) *bytes.Buffer {
		var b bytes.Buffer
		require.NoError(t, WriteWelcome(&b, Terms{Version, chosen}))
		return &b
	}
	terms, err := ReadWelcome(answer(0), optionalBit)
	require.NoError(t, err)
	require.Equal(t, Terms{Version: Version}, terms)
	_, err = ReadWelcome(answer(optionalBit), optionalBit|requiredBit)
	require.ErrorIs(t, err, ErrFeature)
	require.ErrorContains(t, err, "the destination does not know bit 40,")
	_, err = ReadWelcome(answer(optionalBit|1), optionalBit)
	require.ErrorIs(t, err, ErrNotOurs)
	require.ErrorContains(t, err, "it chose feature bit 0, which was not offered")
}

func TestFeatures(t *testing.T) {
	require.Equal(t, "none", Features(0).String())
	require.Equal(t, "bits 3, 40", (optionalBit | requiredBit).String())
	text, err := json.Marshal(Protocol{2, 3, optionalBit | 1})
	require.NoError(t, err)
	require.JSONEq(t, `{"lowest_version":2,"highest_version":3,"features":[0,3]}`, string(text))
	var read Protocol
	require.NoError(t, json.Unmarshal(text, &read))
	require.Equal(t, Protocol{2, 3, optionalBit | 1}, read)
	for _, bad := range []string{"[64]", "[-1]", `"all"`, "3"} {
		require.Error(t, json.Unmarshal([]byte(bad), new(Features)), bad)
	}
	text, err = json.Marshal(Spoken())
	require.NoError(t, err)
	require.JSONEq(t, `{"lowest_version":2,"highest_version":2,"features":[1,2,3]}`, string(text))
}
