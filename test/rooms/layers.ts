// The rooms of each layer, top down. A file imports from its own room and from the levels below, never upwards and
// never from another room of its own level; within a room no files import each other in a circle.

export interface Room {
  /** As it is named to a reader. */
  readonly name: string
  /** Its files, as paths from the root of the repository. */
  readonly files: string
  /** What it may hold and what it may call, in one sentence. */
  readonly holds: string
}

/** From the top down; the rooms of one level know nothing of each other. */
export type Level = readonly Room[]

const room = (name: string, files: string, holds: string): Room => ({ name, files, holds })

export const typescript: readonly Level[] = [
  [
    room(
      'command',
      '^lib/command/',
      'npx grpo-kernels: what the package says of itself at a terminal, over the doors.',
    ),
  ],
  [
    room(
      'doors of lib/',
      '^lib/(index|promises)\\.m?ts$',
      'lib/index.ts and lib/promises.ts list what the package exports, and hold nothing else.',
    ),
    room(
      'doors of lib/recipes/',
      '^lib/recipes/(index|promises)\\.m?ts$',
      'lib/recipes/index.ts lists the methods, the presets and the functions of a step, and holds nothing else.',
    ),
  ],
  [room('presets', '^lib/recipes/presets/', 'A file per trainer: its defaults, put together from methods and parts.')],
  [
    room(
      'methods',
      '^lib/recipes/methods/',
      'A file per published method: its description and its points, made of parts, the step and operations.',
    ),
  ],
  [
    room(
      'parts',
      '^lib/recipes/parts/',
      'What several methods use (trees, pairs, draws, statistics, corrections): it knows the step, and no method.',
    ),
  ],
  [
    room(
      'step',
      '^lib/recipes/step/',
      'What a step is (columns, context, policy, loss, state): it calls operations, and knows no method and no part.',
    ),
  ],
  [
    room(
      'operations',
      '^lib/(?!ops\\.ts$|index\\.m?ts$|promises\\.m?ts$)[^/]+\\.ts$',
      'A file per public operation, and the doors cpu and cuda: types, docstring, and a call of lib/call/.',
    ),
  ],
  [
    room(
      'call',
      '^lib/call/',
      'The way from a public function to the addon: it looks at arguments, places arrays and runs; it knows no operation.',
    ),
  ],
  [
    room(
      'arrays',
      '^lib/arrays/',
      'Host arrays, the memory of devices, and the CUDA library: they know the addon, and nothing of calls.',
    ),
  ],
  [
    room(
      'addon',
      '^lib/addon/',
      'The ground: the addon found and loaded, the specs of the table, dtypes, errors, turns; it imports the table alone.',
    ),
  ],
  [room('the table', '^lib/ops\\.ts$', 'A row per operation. It imports nothing, and every room may read it.')],
]

export const native: readonly Level[] = [
  [room('node', '^native/node/', 'The only files that know Node: the addon over the C interface.')],
  [
    room(
      'operations',
      '^native/[^/]+\\.cc$',
      'A file per operation, named as its row of lib/ops.ts: kernel, adaptor and descriptor.',
    ),
  ],
  [
    room('attention', '^native/attention/', 'What the attention operations and layouts have in common.'),
    room('linear', '^native/linear/', 'What the operations on hidden states and a head have in common.'),
  ],
  [
    room('gaussian', '^native/gaussian/', 'The rows of Gaussian policies, cut into blocks.'),
    room('logits', '^native/logits/', 'What the operations that look at logits have in common.'),
    room('loss', '^native/loss/', 'The policy objective: its terms, their aggregation, the arguments of a loss.'),
    room('selection', '^native/selection/', 'What the selections of rollouts and tokens have in common.'),
  ],
  [room('formulas', '^native/formulas/', 'Formulas that CPU and CUDA kernels share, compiled for both.')],
  [
    room(
      'interface',
      '^native/interface/',
      'The C interface, the same for every operation: descriptors, completed structs, the checker, the table of pointers.',
    ),
  ],
  [
    room('vector', '^native/vector/', 'The inner loops, compiled once per instruction set; they know nothing above.'),
    room('parallel', '^native/parallel/', 'The thread pool and what cancels it; it knows nothing above.'),
  ],
  [
    room(
      'platform',
      '^native/platform/',
      'What differs between platforms: compiling, linking, shared libraries, processors; it knows nothing above.',
    ),
  ],
  [room('ops.h', '^native/ops\\.h$', 'The public C header. It includes nothing of the package.')],
]

export const cuda: readonly Level[] = [
  [
    room(
      'operations',
      '^cuda/[^/]+\\.cu$',
      'A file per operation, named as its row of lib/ops.ts: launcher and kernels, or the launcher of a family’s kernels.',
    ),
  ],
  [
    room('attention', '^cuda/attention/', 'The kernels of shared-prefix attention, by kernel family and architecture.'),
    room('linear', '^cuda/linear/', 'The kernels of hidden states times a head: products, chunks, gradients.'),
  ],
  [
    room('gaussian', '^cuda/gaussian/', 'The rows of Gaussian policies, cut into pieces.'),
    room('logits', '^cuda/logits/', 'The kernels over rows of logits, and the tokens of a row.'),
    room('loss', '^cuda/loss/', 'The policy objective on a device: terms of tokens, sums over sequences.'),
    room('selection', '^cuda/selection/', 'What the selections of rollouts and tokens have in common.'),
  ],
  [
    room(
      'blocks',
      '^cuda/blocks/',
      'What kernels are made of: reductions, scans, sorts, tiles, fragments; it knows no operation.',
    ),
  ],
  [room('launch', '^cuda/launch/', 'Streams, scratch memory, devices, errors, and the instructions of ptx.cuh.')],
]
