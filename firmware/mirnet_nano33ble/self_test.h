// Whether this board, with this library, computes what the model was proven to
// compute.
#ifndef MIRNET_SELF_TEST_H_
#define MIRNET_SELF_TEST_H_

#include "status.h"

namespace mirnet {

// Runs the model on the golden input, compares every byte of its output, and
// sends one line about it. Whatever it returns but kOk is fatal.
Status SelfTest();

}  // namespace mirnet

#endif  // MIRNET_SELF_TEST_H_
