// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package conversion decodes stored custom resources many at a time, so that a conversion webhook is asked about many at once.
//
// Upstream's storage codec of a custom resource takes one object:
//
//	decode ─▶ coerce, prune ─▶ default ─▶ convert ─▶ coerce, prune
//	          by the schema of the       by the schema of the
//	          stored version             served version
//
// Converting asks the webhook, and 20,000 objects are as many requests. The converter itself takes lists, and makes one request of one. A
// Decoder therefore goes the same way in parts, each of them upstream's own: up to the defaults for each object (Begin), then conversion for several
// of them as a list, and what comes after for each (Convert). Upstream hands nobody the parts. But the decoder in the very beginning comes from the options for
// REST that upstream is given, so it may be one (Batches.Codec) that returns whatever object the Decoder wants to have go on from there.
//
// Whatever goes wrong with several is done again with each alone, as upstream would: the error is then upstream's, and that of one object.
package conversion
