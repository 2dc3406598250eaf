// The trainers, with their own defaults: a preset gives the numbers that the trainer would give on the same batch.
import { liger } from './liger.js'
import { nemo } from './nemo.js'
import { openrlhf } from './openrlhf.js'
import { slime } from './slime.js'
import { trl } from './trl.js'
import { unsloth } from './unsloth.js'
import { verl } from './verl.js'

/** A method for each trainer: a function of the options that decide its loss, named as the trainer names them. */
export const presets = { liger, nemo, openrlhf, slime, trl, unsloth, verl } as const
