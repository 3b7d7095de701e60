"""The GRU cell in plain operations against that of torch."""

import torch

from metarl.nets.gru_cell import gru_inputs, gru_step, initial_gru_cell


def test_it_is_the_cell_of_torch_with_the_same_weights():
    generator = torch.Generator().manual_seed(0)
    parameters = {name: value.double() for name, value in initial_gru_cell(3, 5, generator).items()}
    cell = torch.nn.GRUCell(3, 5, dtype=torch.float64)
    cell.load_state_dict(parameters)
    inputs, hidden = (torch.randn(7, size, generator=generator, dtype=torch.float64) for size in (3, 5))
    found = gru_step(parameters, gru_inputs(parameters, inputs), hidden)
    torch.testing.assert_close(found, cell(inputs, hidden), rtol=1e-12, atol=1e-12)
